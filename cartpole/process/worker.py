"""A process that serves: alone, or as a worker that was forked from a template."""

import logging
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial

from cartpole.metrics.counters import TEMPLATE_ROW, SharedCounters, WorkerCounters
from cartpole.predictor import BadPolicy, set_threads
from cartpole.process import signals
from cartpole.process.exit_codes import EXIT_OK, EXIT_START, Refused
from cartpole.process.loading import load
from cartpole.process.parent import end_with_parent, set_name
from cartpole.process.server import Server
from cartpole.process.sockets import start_line
from cartpole.process.template import run_forked
from cartpole.settings import Settings

logger = logging.getLogger("cartpole")


def serve_alone(settings: Settings, listener: socket.socket) -> int:
    """Load the policy and serve. Returns the exit code."""
    if settings.pin:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    try:
        set_threads(settings.threads)
        server = Server(settings, load(settings), WorkerCounters())
        server.ready_line = start_line(settings, listener, str(server.loaded))
        server.run([listener])
    except (BadPolicy, OSError) as error:
        logger.error("%s", error)
        return EXIT_START
    if server.reloader.has_threads:
        # Its thread may be in C++, where the interpreter's shutdown would abort the process.
        signals.exit_immediately()
    return EXIT_OK


# Serves in a forked process; the arguments are the listener, the socket that gives orders, the row
# of the counters, and the core to run on, -1 for any. Returns the exit code.
Serve = Callable[[socket.socket, socket.socket, int, int], int]


def prepare(settings: Settings, counters: int, copies: Sequence[int]) -> tuple[str, Serve]:
    """Load what a template's workers serve.

    It computes with one thread: of a process that has computed with more, a forked one would wait
    for threads that it lacks. Workers that use more verify their answers with them; that is tried
    here once, so that no worker finds out that it can't serve.

    Args:
        counters: the descriptor of the counters' memory.
        copies: see load.

    Returns:
        The policy in words, and what serves it.

    Raises:
        Refused: it can't be served.
    """
    try:
        set_threads(1)
        loaded = load(settings, copies)
        shared = SharedCounters.for_workers(settings.workers, counters)
        server = Server(settings, loaded, WorkerCounters(shared, TEMPLATE_ROW))
    except (BadPolicy, OSError) as error:
        raise Refused(str(error)) from error
    try:
        code = run_forked(partial(_try_threads, server, os.getpid()))
    except Refused as error:
        raise Refused(f"model {settings.model}: {error}") from error
    if code != EXIT_OK:
        raise Refused(f"model {settings.model}: it can't be served with {settings.threads} threads")
    return str(loaded), partial(_serve_forked, server)


def _try_threads(server: Server, template: int) -> int:
    end_with_parent(template)  # it may compute for long
    try:
        server.use_threads()
    except BadPolicy as error:
        logger.error("%s", error)
        return EXIT_START
    return EXIT_OK


def _serve_forked(
    server: Server, listener: socket.socket, supervisor: socket.socket, row: int, core: int
) -> int:
    set_name("cartpole-worker")
    server.predictor.counters.take_row(row)
    signals.follow(supervisor)
    if core >= 0:
        os.sched_setaffinity(0, {core})
    try:
        server.use_threads()
        server.run([listener])
    except (BadPolicy, OSError) as error:
        logger.error("%s", error)
        return EXIT_START
    return EXIT_OK
