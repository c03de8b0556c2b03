"""Binds listening sockets: one per worker on a TCP port, or a Unix socket that all share."""

import errno
import hashlib
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from cartpole.process import signals
from cartpole.settings import Settings
from cartpole.version import __version__

# The kernel buffers this much of each connection while the event loop is busy. With more, a flood
# of requests waits longer before TCP slows its clients down (bench/overload.py).
RECEIVE_BYTES = 32 * 1024

SPARE_DESCRIPTORS = 80  # for listeners, connections that ask for the health, and files

logger = logging.getLogger("cartpole")


@contextmanager
def bind_sockets(settings: Settings) -> Iterator[list[socket.socket]]:
    """Bind a socket for each worker, which listens when it is ready. They are closed at the end.

    Raises:
        OSError: the address is in use or invalid.
    """
    with ExitStack() as stack:
        try:
            bind = _bind_unix if settings.uds else _bind_tcp
            sockets = bind(settings, stack)
        except OSError as error:
            where = f"unix:{settings.uds}" if settings.uds else f"{settings.host}:{settings.port}"
            reason = (error.strerror or str(error)).removeprefix("AF_UNIX ").partition(" (")[0]
            raise OSError(f"can't listen on {where}: {reason}") from error
        yield sockets


def _bind_tcp(settings: Settings, stack: ExitStack) -> list[socket.socket]:
    """Bind a socket per worker with SO_REUSEPORT: the kernel spreads connections over them."""
    # Bound without SO_REUSEPORT, unless asked for: that fails if any other program listens there.
    first = stack.enter_context(_tcp_socket(settings, settings.port, settings.reuse_port))
    host, port = first.getsockname()[:2]
    stack.enter_context(claim_address(f"{host}:{port}", settings.reuse_port))
    if settings.workers == 1:
        return [first]
    sockets = [_tcp_socket(settings, port, True) for _ in range(settings.workers)]
    first.close()
    return [stack.enter_context(listener) for listener in sockets]


def _tcp_socket(settings: Settings, port: int, share: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    # Connections of an earlier instance that are in TIME_WAIT don't matter.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # inherited on accept
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
    try:
        listener.bind((settings.host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _bind_unix(settings: Settings, stack: ExitStack) -> list[socket.socket]:
    path = settings.uds
    assert path
    folder = path.parent.stat()
    stack.enter_context(claim_address(f"{folder.st_dev}:{folder.st_ino}:{path.name}"))
    if path.is_socket() and _is_stale(path):
        path.unlink()
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    with signals.deferred():
        listener.bind(str(path))
        remove = partial(_remove, path, path.stat().st_ino)
        stack.callback(remove)
        signals.add_cleanup(remove)
        path.chmod(settings.uds_mode)
    return [listener] * settings.workers


def _is_stale(path: Path) -> bool:
    """Whether no process listens on this socket any more."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)  # don't wait if its queue of connections is full
        return client.connect_ex(str(path)) == errno.ECONNREFUSED


def _remove(path: Path, inode: int) -> None:
    """Remove the socket file, unless another instance has replaced it by its own."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()


def claim_address(address: str, share: bool = False) -> socket.socket:
    """Claim an address against other processes that claim by this function.

    The claim is an abstract Unix socket: one process can bind its name, and the kernel frees it
    when that process ends. Other systems than Linux have no such sockets, and claim nothing.

    Args:
        address: any text that names it.
        share: only check that nobody has claimed the address.

    Returns:
        The claim, which lasts until it is closed.

    Raises:
        OSError: with EADDRINUSE, another process has claimed the address.
    """
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    name = b"\0cartpole-" + hashlib.sha256(os.fsencode(address)).hexdigest().encode()
    try:
        if sys.platform != "linux":
            return claim
        if not share:
            claim.bind(name)
        elif claim.connect_ex(name) == 0:
            raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    except OSError:
        claim.close()
        raise
    return claim


def raise_descriptor_limit(connections: int) -> None:
    """Allow this process as many descriptors as the system permits.

    Logs a warning if that is too few for this number of connections.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    if connections + SPARE_DESCRIPTORS > hard_limit:
        logger.warning(
            "--limit-connections %d: the system permits only %d descriptors",
            connections,
            hard_limit,
        )


def address(settings: Settings, listener: socket.socket) -> str:
    """Where the service answers, as a URL."""
    if settings.uds:
        return f"unix:{settings.uds}"
    scheme = "https" if settings.ssl_certfile else "http"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def start_line(settings: Settings, listener: socket.socket, policy: str) -> str:
    """The log line of a service that has begun to serve this policy."""
    return (
        f"cartpole {__version__} serves on {address(settings, listener)}: {policy}, "
        f"workers {settings.workers}, threads {settings.threads}; limits: "
        f"{settings.limit_connections} connections, heads of {settings.limit_head} bytes in "
        f"{settings.head_timeout} s, bodies of {settings.limit_body} bytes, "
        f"idle {settings.keep_alive} s"
    )
