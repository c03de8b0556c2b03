"""`python -m cartpole.process.template`: loads what is served, then forks workers that serve it.

They share its memory. They don't end with it: the supervisor adopts them.
"""

import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial

from cartpole import logs
from cartpole.process import signals
from cartpole.process.exit_codes import EXIT_OK, EXIT_START, Refused
from cartpole.process.parent import end_with_parent, set_name
from cartpole.settings import read

MOST_BYTES = 4000  # of a message between a supervisor and its child

logger = logging.getLogger("cartpole")


def main() -> int:
    """Load, then fork a worker for each order of the supervisor, until that closes its socket.

    Its arguments are the supervisor's process id and the descriptors that it gives, see
    children.Template; the module whose prepare() loads; and the flags of the service.

    Returns:
        The exit code.
    """
    numbers, module, *flags = sys.argv[1:]
    parent, control, counters, *copies = map(int, numbers.split(","))
    end_with_parent(parent)
    signals.ignore_signals()
    set_name("cartpole-template")
    settings = read(flags)
    logs.configure(settings)
    signals.add_cleanup(logs.finish)
    prepare = importlib.import_module(module).prepare  # it imports PyTorch
    with socket.socket(fileno=control) as supervisor:
        try:
            policy, serve = prepare(settings, counters, copies)
        except Refused as error:
            _say(supervisor, f"refused {error}")
            return EXIT_START
        for descriptor in (counters, *copies):
            os.close(descriptor)
        _say(supervisor, f"ready {policy}")
        return _fork_workers(supervisor, serve)


def _fork_workers(supervisor: socket.socket, serve: Callable[..., int]) -> int:
    """Fork one for each order, until the supervisor closes its socket. Returns the exit code."""
    while True:
        order, descriptors, *_ = socket.recv_fds(supervisor, MOST_BYTES, 2)
        if not order:
            return EXIT_OK
        listener, orders = (socket.socket(fileno=each) for each in descriptors)
        with listener, orders:
            row, core = map(int, order.split())
            run = partial(serve, listener, orders, row, core)
            try:
                run_forked(partial(_fork_orphan, supervisor, orders, run))
            except OSError as error:
                logger.error("can't fork a worker: %s", error.strerror)
            except Refused as error:  # it had no threads before; another may have none
                logger.error("%s", error)
                return EXIT_START


def run_forked(run: Callable[[], int]) -> int:
    """Run this in a process of its own, which ends with its result. Returns that exit code.

    Raises:
        Refused: this process has threads, which the other would wait for.
        OSError: the system lacks a process or memory for it.
    """
    _, status = os.waitpid(_fork(run), 0)
    return os.waitstatus_to_exitcode(status)


def _fork(run: Callable[[], int]) -> int:
    if len(os.listdir("/proc/self/task")) > 1:
        raise Refused("its forward starts threads, so --workers can't be above 1")
    if pid := os.fork():
        return pid
    code = 1
    try:
        code = run()
    except BaseException:
        logger.exception("a process that the template has forked failed")
    finally:
        signals.exit_immediately(code)


def _fork_orphan(supervisor: socket.socket, orders: socket.socket, run: Callable[[], int]) -> int:
    """Fork once more and end at once, so that the supervisor adopts the process."""
    supervisor.close()  # else a worker would keep it open after the template's end
    _fork(lambda: EXIT_OK if _is_abandoned(orders) else run())
    return EXIT_OK


def _is_abandoned(orders: socket.socket) -> bool:
    """Whether the supervisor has given this worker up: its row may be another's by now."""
    try:
        return not orders.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False


def _say(supervisor: socket.socket, text: str) -> None:
    supervisor.send(text.encode(errors="backslashreplace")[:MOST_BYTES])


if __name__ == "__main__":
    sys.exit(main())
