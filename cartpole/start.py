"""From a command line to a service: settings, sockets, one worker or a supervisor of several."""

import logging
import os
import resource
import socket
import sys
from pathlib import Path

from cartpole.process import logs, signals
from cartpole.process.sockets import bound
from cartpole.settings import BadSettings, Settings, read

EXIT_USAGE, EXIT_START = 2, 3
SPARE_DESCRIPTORS = 80  # beside those of connections: listeners, the reserve for health, files

logger = logging.getLogger("cartpole")


def run(argv: list[str]) -> int:
    """Serve until told to stop. Returns the exit code: 0 stopped, 2 bad setting, 3 can't start."""
    try:
        settings = read(argv)
    except BadSettings as error:
        print(f"cartpole: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(settings)
    try:
        with bound(settings) as sockets:
            _raise_limits(settings)
            if settings.pin and settings.workers == 1:
                os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
            if settings.workers > 1:
                return _supervise(settings, sockets)
            return serve_worker(settings, sockets)
    except OSError as error:
        logger.error("%s", error)
        return EXIT_START


def serve_worker(
    settings: Settings,
    sockets: list[socket.socket],
    board: Path | None = None,
    row: int = 0,
) -> int:
    """Serve in this process, on these sockets. Returns the exit code.

    Args:
        board: the file of the metrics that several workers share; row is this one's.
    """
    if board:  # a process of its own
        signals.catch()
        logs.configure(settings)
    # PyTorch takes a second or more to import: only now that the settings are known to be good.
    from cartpole.metrics.counters import Board, Metrics
    from cartpole.policy.loading import BadPolicy
    from cartpole.process.server import build

    try:
        shared = Board.shared(settings.workers, board) if board else None
        server = build(settings, Metrics(shared, row))
        server.run(sockets)
    except (BadPolicy, OSError) as error:
        logger.error("%s", error)
        return EXIT_START
    if server.reloader.busy or server.reloader.abandoned:
        # Its thread may be in C++, which the end of the interpreter would abort.
        signals.exit_now()
    return 0


def _supervise(settings: Settings, sockets: list[socket.socket]) -> int:
    from cartpole.process.supervisor import Supervisor

    supervisor = Supervisor(settings, sockets, serve_worker)
    supervisor.run()
    return supervisor.exit_code


def _raise_limits(settings: Settings) -> None:
    """As many descriptors as the system lets a process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if settings.limit_connections + SPARE_DESCRIPTORS > most:
        logger.warning("--limit-connections %d: only %d descriptors can be had",
                       settings.limit_connections, most)  # fmt: skip
