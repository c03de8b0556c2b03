"""Signals as calls in a thread of their own, so that none interrupts an import or is lost in one.

All other threads block the signals. Child processes inherit that until they install handlers too.
"""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
HANDLED_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1)

# Held during a callback: once deliver_to returns, the previous callback is not called any more.
# Held by deferred() as well.
_lock = threading.RLock()
_callback: Callable[[int], object] | None = None
_pending: list[int] = []  # kept for the first callback
_cleanups: list[Callable[[], None]] = []


def install_signal_handlers() -> None:
    """Handle signals from now on. Until deliver_to, SIGINT and SIGTERM exit with code 0."""
    block_signals()
    for number in HANDLED_SIGNALS:  # in case a library unblocks them, as multiprocessing does
        signal.signal(number, lambda number, frame: _deliver(number))
    threading.Thread(target=_wait_for_signals, daemon=True, name="signals").start()


def block_signals() -> None:
    """Block them in this thread, and in the threads and processes that it starts."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)


def deliver_to(callback: Callable[[int], object]) -> None:
    """Call this with each signal, in another thread; first, here, with signals still pending."""
    global _callback
    with _lock:
        _callback = callback
        while _pending:
            callback(_pending.pop(0))


def ignore(number: int) -> None:
    """The callback of a process that has done its work."""


def add_cleanup(cleanup: Callable[[], None]) -> None:
    """Call this function in exit_immediately."""
    _cleanups.append(cleanup)


@contextmanager
def deferred() -> Iterator[None]:
    """Deliver no signal inside this block: something is made, and its cleanup added."""
    with _lock:
        yield


def exit_immediately(code: int = 0) -> NoReturn:
    """End the process from any thread, whatever the others do. No log line is lost: none waits."""
    for cleanup in _cleanups:
        cleanup()
    os._exit(code)


def _wait_for_signals() -> None:
    while True:
        _deliver(signal.sigwait(HANDLED_SIGNALS))


def _deliver(number: int) -> None:
    with _lock:
        if _callback:
            _callback(number)
        elif number in STOP_SIGNALS:
            exit_immediately()
        else:
            _pending.append(number)
