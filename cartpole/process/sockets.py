"""Binds listening sockets: one per worker on a TCP port, or a Unix socket that all share."""

import errno
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from cartpole.process import signals
from cartpole.settings import Settings

# The kernel buffers this much of each connection while the event loop is busy. With more, a flood
# of requests waits longer before TCP slows its clients down (bench/overload.py).
RECEIVE_BYTES = 32 * 1024


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
    _claim_address(f"{host}:{port}", stack, settings.reuse_port)
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
    _claim_address(f"{folder.st_dev}:{folder.st_ino}:{path.name}", stack)
    if path.is_socket() and _is_stale(path):
        path.unlink()
    listener = stack.enter_context(socket.socket(socket.AF_UNIX))
    with signals.deferred():
        listener.bind(str(path))
        remove = partial(_remove, path, path.stat().st_ino)
        stack.callback(remove)
        signals.add_cleanup(remove)
        path.chmod(0o666)
    return [listener] * settings.workers


def _is_stale(path: Path) -> bool:
    """Whether no process listens on this socket any more."""
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)  # don't wait if its queue of connections is full
        return client.connect_ex(str(path)) == errno.ECONNREFUSED


def _claim_address(address: str, stack: ExitStack, share: bool = False) -> None:
    """Claim the address against other instances, before the sockets listen.

    The claim is an abstract Unix socket: one process can bind its name, and the kernel frees it
    when that process ends.

    Raises:
        OSError: another instance has claimed the address and does not share it.
    """
    if sys.platform != "linux":
        return
    name = b"\0cartpole-" + hashlib.sha256(os.fsencode(address)).hexdigest().encode()
    claim = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
    if not share:
        claim.bind(name)
    elif claim.connect_ex(name) == 0:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _remove(path: Path, inode: int) -> None:
    """Remove the socket file, unless another instance has replaced it by its own."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
