"""Serves in this process until it is told to stop: alone, or as a worker of a supervisor."""

import logging
import socket
from pathlib import Path

from cartpole import logs
from cartpole.process import signals
from cartpole.process.exit_codes import EXIT_OK, EXIT_START
from cartpole.settings import Settings

logger = logging.getLogger("cartpole")


def serve_worker(settings: Settings, sockets: list[socket.socket], counters: Path, row: int) -> int:
    """Serve in a process that a supervisor has started. Returns the exit code.

    Args:
        counters: the file of the counters that all workers share.
        row: this worker's row of them.
    """
    signals.install_signal_handlers()
    logs.configure(settings)
    return serve(settings, sockets, counters, row)


def serve(
    settings: Settings,
    sockets: list[socket.socket],
    counters: Path | None = None,
    row: int = 0,
) -> int:
    """Serve on these sockets. Returns the exit code."""
    # PyTorch takes a second or more to import. Not before the settings are known to be good.
    from cartpole.metrics.counters import SharedCounters, WorkerCounters
    from cartpole.predictor import BadPolicy
    from cartpole.process.build import build

    try:
        shared = SharedCounters.for_workers(settings.workers, counters) if counters else None
        server = build(settings, WorkerCounters(shared, row))
        server.run(sockets)
    except (BadPolicy, OSError) as error:
        logger.error("%s", error)
        return EXIT_START
    if server.reloader.is_loading or server.reloader.abandoned_loads:
        # Its thread may be in C++, where the interpreter's shutdown would abort the process.
        signals.exit_immediately()
    return EXIT_OK
