"""Signals as calls: one thread waits for them, so that none interrupts an import or is lost in one.

All other threads block them, and so do the processes started from here until they catch them too.
"""

import os
import signal
import threading
from collections.abc import Callable
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM)
CAUGHT = (*STOPPING, signal.SIGHUP, signal.SIGUSR1)

_lock = threading.RLock()  # a callback that has been replaced is not called any more
_callback: Callable[[int], object] | None = None
_waiting: list[int] = []  # for the first callback
_cleanups: list[Callable[[], None]] = []


def catch() -> None:
    """From now on, until handle(), SIGINT and SIGTERM end the process with exit code 0."""
    block()
    for number in CAUGHT:  # for where a library unblocks them, as multiprocessing does
        signal.signal(number, lambda number, frame: _deliver(number))
    threading.Thread(target=_wait, daemon=True, name="signals").start()


def block() -> None:
    """In this thread, and in the threads and processes that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)


def handle(callback: Callable[[int], object]) -> None:
    """Call this, in another thread, with each signal; first with those that have waited for it."""
    global _callback
    with _lock:
        _callback = callback
        while _waiting:
            callback(_waiting.pop(0))


def ignore(number: int) -> None:
    """A callback for a process that has done its work."""


def at_exit_now(cleanup: Callable[[], None]) -> None:
    _cleanups.append(cleanup)


def exit_now(code: int = 0) -> NoReturn:
    """From any thread, whatever the others do. Log lines are written already: none is buffered."""
    for cleanup in _cleanups:
        cleanup()
    os._exit(code)


def _wait() -> None:
    while True:
        _deliver(signal.sigwait(CAUGHT))


def _deliver(number: int) -> None:
    with _lock:
        if _callback:
            _callback(number)
        elif number in STOPPING:
            exit_now()
        else:
            _waiting.append(number)
