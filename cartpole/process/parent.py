"""The end of a process with its parent, and the adoption of those whose parents have ended."""

import ctypes
import os
import signal
import sys
from pathlib import Path

# Of prctl(2). The first is kept across execve(2), and due when the thread that forked ends.
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends.

    Args:
        parent: the process id of the parent, as the parent knows it.

    Raises:
        SystemExit: the parent has ended already, or the kernel refuses.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit("cartpole: the parent has ended")  # before prctl, so no signal would come


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parents end. Raises SystemExit if refused."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def set_name(name: str) -> None:
    """Show the first 15 characters of this name in lists of processes, as ps -o comm."""
    Path("/proc/self/comm").write_text(name)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value) != 0:
        sys.exit(f"cartpole: prctl: {os.strerror(ctypes.get_errno())}")
