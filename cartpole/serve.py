"""`python -m cartpole.serve`: settings, sockets, then one worker or a supervisor of several."""

import logging
import os
import resource
import signal
import socket
import stat
import sys
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cartpole import logs
from cartpole.settings import BadSettings, Settings, read

EXIT_USAGE, EXIT_START = 2, 3
RECEIVE_BYTES = 32 * 1024  # that the kernel keeps of a connection which has to wait its turn
SPARE_DESCRIPTORS = 80  # beside those of connections: listeners, the reserve for health, files

logger = logging.getLogger("cartpole")


def main() -> None:
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """Serve until told to stop. Returns the exit code: 0 stopped, 2 bad setting, 3 can't start."""
    _until_served()
    try:
        settings = read(argv)
    except BadSettings as error:
        print(f"cartpole: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(settings)
    sockets: list[socket.socket] = []
    inode = 0
    try:
        sockets += _bind(settings)
        inode = settings.uds.stat().st_ino if settings.uds else 0
        _raise_limits(settings)
        if settings.pin and settings.workers == 1:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if settings.workers > 1:
            return _supervise(settings, sockets)
        return serve_worker(settings, sockets)
    except OSError as error:
        logger.error("%s", error)
        return EXIT_START
    finally:
        if settings.uds:
            _unlink(settings.uds, inode)


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
        logs.configure(settings)
        _until_served()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT, signal.SIGTERM))
    # PyTorch takes a second or more to import: only now that the settings are known to be good.
    from cartpole.metrics import Board, Metrics
    from cartpole.policy import BadPolicy
    from cartpole.worker import build

    try:
        shared = Board.shared(settings.workers, board) if board else None
        build(settings, Metrics(shared, row)).run(sockets)
    except (BadPolicy, OSError) as error:
        logger.error("%s", error)
        return EXIT_START
    return 0


def _supervise(settings: Settings, sockets: list[socket.socket]) -> int:
    from cartpole.workers import Supervisor

    supervisor = Supervisor(settings, sockets, serve_worker)
    supervisor.run()
    return supervisor.exit_code


def _until_served() -> None:
    """Before uvicorn handles signals, and after: it ends by raising again what stopped it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing is served yet that could be replaced


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)


def _raise_limits(settings: Settings) -> None:
    """As many descriptors as the system lets a process have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if settings.limit_connections + SPARE_DESCRIPTORS > most:
        logger.warning("--limit-connections %d: only %d descriptors can be had",
                       settings.limit_connections, most)  # fmt: skip


def _unlink(path: Path, inode: int) -> None:
    """Unless another instance has put its own socket there."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def _bind(settings: Settings) -> list[socket.socket]:
    """A socket for each worker, which listens once that is ready.

    Raises:
        OSError: the address can't be had.
    """
    where = str(settings.uds) if settings.uds else f"{settings.host}:{settings.port}"
    try:
        if settings.uds:
            return [_bind_unix(settings.uds)] * settings.workers
        return _bind_tcp(settings)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise OSError(f"can't listen on {where}: {reason}") from error


def _bind_tcp(settings: Settings) -> list[socket.socket]:
    """With SO_REUSEPORT the kernel spreads connections over the workers, and over instances."""
    own = hasattr(socket, "SO_REUSEPORT")
    sockets: list[socket.socket] = []
    for _ in range(settings.workers if own else 1):
        one = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # connections inherit it
        if own:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((settings.host, sockets[0].getsockname()[1] if sockets else settings.port))
        sockets.append(one)
    return sockets if own else sockets * settings.workers


def _bind_unix(path: Path) -> socket.socket:
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()  # left behind, or in use: then that service gets no new connections
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    os.chmod(path, 0o666)
    return one


if __name__ == "__main__":
    main()
