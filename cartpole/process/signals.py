"""Signals as calls in a thread of their own, so that none interrupts an import or is lost in one.

All other threads block the signals. Processes that are forked from a template ignore them, and take
their supervisor's orders for signals.
"""

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
ORPHAN_SECONDS = 1  # for a worker to end after its supervisor
HANDLED_SIGNALS = (*STOP_SIGNALS, signal.SIGHUP, signal.SIGUSR1)

# Held during a callback: once deliver_to returns, the previous callback is not called any more.
# Held by deferred() as well.
_lock = threading.RLock()
_callback: Callable[[int], object] | None = None
_pending: list[int] = []  # kept for the first callback
_cleanups: list[Callable[[], None]] = []


def install_signal_handlers() -> None:
    """Handle signals from now on. Until deliver_to, SIGINT and SIGTERM exit with code 0."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED_SIGNALS)  # in all threads, and templates
    for number in HANDLED_SIGNALS:  # in case a library unblocks them
        signal.signal(number, lambda number, frame: _deliver(number))
    threading.Thread(target=_wait_for_signals, daemon=True, name="signals").start()


def ignore_signals() -> None:
    """Ignore them in this process, and those that it forks: they follow() their supervisor."""
    for number in HANDLED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED_SIGNALS)


def follow(supervisor: socket.socket) -> None:
    """Take each byte that the supervisor sends for a signal; at its end, stop within seconds."""
    threading.Thread(target=_follow, args=(supervisor,), daemon=True, name="orders").start()


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
    """End the process from any thread, whatever the others do."""
    for cleanup in reversed(_cleanups):  # the log's, which may wait for its reader, comes last
        cleanup()
    os._exit(code)


def exit_later(seconds: float) -> None:
    """End the process after so many seconds, if it has not ended until then."""
    timer = threading.Timer(seconds, exit_immediately)
    timer.daemon = True
    timer.start()


def _follow(supervisor: socket.socket) -> None:
    while order := supervisor.recv(1):
        _deliver(order[0])
    if _callback is None:  # it does not serve yet
        exit_immediately()
    exit_later(ORPHAN_SECONDS)
    _deliver(signal.SIGUSR1)


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
