"""The processes of a session, which a program started with start_new_session leads."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path


def processes(session: int, without: str = "") -> list[int]:
    """The process ids of a session, without those whose command line has this text."""
    found = []
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):  # not a process, or one that has just ended
            pid = int(entry.name)
            state = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes().decode(errors="replace")
            is_wanted = not without or without not in command
            if int(state[3]) == session and state[0] != "Z" and is_wanted:
                found.append(pid)
    return found


def signal_session(session: int, number: int, without: str = "") -> list[int]:
    """Send a signal to a session. Returns who got it."""
    pids = processes(session, without)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
    return pids


def end_session(session: int) -> None:
    """Kill a session, and wait until it is empty."""
    while signal_session(session, signal.SIGKILL):
        time.sleep(0.02)
