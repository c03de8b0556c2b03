"""The sockets to listen on: one for each worker on a TCP port, or one for all on a Unix socket."""

import errno
import hashlib
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cartpole import signals
from cartpole.settings import Settings

RECEIVE_BYTES = 32 * 1024  # that the kernel keeps of a connection which has to wait its turn


@contextmanager
def bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """A socket for each worker, which listens once that is ready. In the end they are closed.

    Raises:
        OSError: the address can't be had.
    """
    try:
        sockets, claim = _bind_unix(settings) if settings.uds else _bind_tcp(settings)
    except OSError as error:
        where = f"unix:{settings.uds}" if settings.uds else f"{settings.host}:{settings.port}"
        reason = (error.strerror or str(error)).removeprefix("AF_UNIX ").partition(" (")[0]
        raise OSError(f"can't listen on {where}: {reason}") from error
    remove = partial(_remove, settings.uds, settings.uds.stat().st_ino) if settings.uds else None
    if remove:
        signals.at_exit_now(remove)
    try:
        yield sockets
    finally:
        if remove:
            remove()
        for one in (*sockets, *claim):
            one.close()


Bound = tuple[list[socket.socket], list[socket.socket]]  # to listen on; to keep open


def _bind_tcp(settings: Settings) -> Bound:
    """Among several sockets that share a port by SO_REUSEPORT, the kernel spreads connections."""
    # Without the option it is refused where anyone listens, with or without the option.
    first = _tcp_socket(settings.host, settings.port, settings.reuse_port)
    host, port = first.getsockname()[:2]
    claim = _claim(f"{host}:{port}", settings.reuse_port)
    if settings.workers == 1:
        return [first], claim
    sockets = [_tcp_socket(settings.host, port, True) for _ in range(settings.workers)]
    first.close()
    return sockets, claim


def _tcp_socket(host: str, port: int, share: bool) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections don't matter
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # connections inherit it
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
    one.bind((host, port))
    return one


def _bind_unix(settings: Settings) -> Bound:
    assert settings.uds
    path = str(settings.uds)
    folder = os.stat(settings.uds.parent)
    claim = _claim(f"{folder.st_dev}:{folder.st_ino}:{settings.uds.name}")
    if settings.uds.is_socket() and _is_left_behind(path):
        settings.uds.unlink()
    one = socket.socket(socket.AF_UNIX)
    one.bind(path)
    os.chmod(path, 0o666)
    return [one] * settings.workers, claim


def _is_left_behind(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)  # a queue that is full is a service's too
        return client.connect_ex(path) == errno.ECONNREFUSED


def _claim(address: str, share: bool = False) -> list[socket.socket]:
    """Keep other instances from the address, also while the sockets there don't listen yet.

    An abstract socket's name is taken by one process at a time, and free once that has ended.

    Raises:
        OSError: another instance has it, and doesn't share.
    """
    if sys.platform != "linux":
        return []
    name = b"\0cartpole-" + hashlib.sha256(os.fsencode(address)).hexdigest().encode()
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    if not share:
        claim.bind(name)
    elif claim.connect_ex(name) == 0:
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    return [claim]


def _remove(path: Path, inode: int) -> None:
    """Unless another instance has put its own socket there."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
