"""`python -m cartpole.integrations.child PARENT ARGUMENT…`: cartpole.serve, ended with its parent.

It asks the kernel for a signal at the parent's end, then becomes the service.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); kept across execve(2), and due when the thread that forked ends


def main() -> None:
    """Never returns: the process becomes the service, or ends."""
    parent, arguments = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"cartpole: prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:
        sys.exit("cartpole: the parent has ended")  # before prctl, so no signal would come
    os.execv(sys.executable, [sys.executable, "-m", "cartpole.serve", *arguments])


if __name__ == "__main__":
    main()
