"""The sockets to listen on: one for each worker on a TCP port, or one for all on a Unix socket."""

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

RECEIVE_BYTES = 32 * 1024  # that the kernel keeps of a connection which has to wait its turn


@contextmanager
def bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """A socket for each worker, which listens once that is ready. In the end they are closed.

    Raises:
        OSError: the address can't be had.
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
    """Among several sockets that share a port by SO_REUSEPORT, the kernel spreads connections."""
    # Without the option it is refused where anyone listens, with or without the option.
    first = stack.enter_context(_tcp_socket(settings, settings.port, settings.reuse_port))
    host, port = first.getsockname()[:2]
    _claim(f"{host}:{port}", stack, settings.reuse_port)
    if settings.workers == 1:
        return [first]
    several = [_tcp_socket(settings, port, True) for _ in range(settings.workers)]
    first.close()
    return [stack.enter_context(one) for one in several]


def _tcp_socket(settings: Settings, port: int, share: bool) -> socket.socket:
    one = socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # old connections don't matter
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)  # connections inherit it
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, share)
    try:
        one.bind((settings.host, port))
    except OSError:
        one.close()
        raise
    return one


def _bind_unix(settings: Settings, stack: ExitStack) -> list[socket.socket]:
    path = settings.uds
    assert path
    folder = path.parent.stat()
    _claim(f"{folder.st_dev}:{folder.st_ino}:{path.name}", stack)
    if path.is_socket() and _is_left_behind(path):
        path.unlink()
    one = stack.enter_context(socket.socket(socket.AF_UNIX))
    one.bind(str(path))
    remove = partial(_remove, path, path.stat().st_ino)
    stack.callback(remove)
    signals.at_exit_now(remove)
    path.chmod(0o666)
    return [one] * settings.workers


def _is_left_behind(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.setblocking(False)  # a queue that is full is a service's too
        return client.connect_ex(str(path)) == errno.ECONNREFUSED


def _claim(address: str, stack: ExitStack, share: bool = False) -> None:
    """Keep other instances from the address, also while the sockets there don't listen yet.

    An abstract socket's name is taken by one process at a time, and free once that has ended.

    Raises:
        OSError: another instance has it, and doesn't share.
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
    """Unless another instance has put its own socket there."""
    with suppress(FileNotFoundError):
        if path.stat().st_ino == inode:
            path.unlink()
