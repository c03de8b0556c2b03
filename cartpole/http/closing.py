"""How a connection ends without losing the answers that its client has not read yet.

Closing a socket that has unread bytes, or receives more, resets the connection: RFC 9112, 9.6.
"""

import asyncio
import sys
from collections.abc import Callable
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ
from typing import Protocol


class Closable(Protocol):
    finished: bool
    transport: asyncio.Transport

    def hang_up(self) -> None: ...


class CycleTransport:
    """Given to uvicorn's request cycle in place of the transport: its close() is our hang_up()."""

    def __init__(self, connection: Closable) -> None:
        self._connection: Closable | None = connection
        self.write: Callable[[bytes], object] = connection.transport.write
        self.close: Callable[[], object] = connection.hang_up

    def is_closing(self) -> bool:
        connection = self._connection
        return connection is None or connection.finished or connection.transport.is_closing()

    def release(self) -> None:
        """The connection is gone. Without the reference cycle, its memory is freed at once."""
        self._connection = None
        self.write = self.close = _do_nothing


def _do_nothing(*_: object) -> None:
    pass


def close(transport: asyncio.Transport) -> None:
    """Close after the last answer, at first only for writing if the client has sent more."""
    if has_unread_bytes(transport) and transport.can_write_eof():
        transport.write_eof()
    else:
        transport.close()


def has_unread_bytes(transport: asyncio.Transport) -> bool:
    """Whether the client has unread answers, or we have unread requests."""
    return bool(transport.get_write_buffer_size() or _queued(transport, FIONREAD))


def unacknowledged_bytes(transport: asyncio.Transport) -> int:
    """Bytes that we have written and the client's kernel has not acknowledged."""
    return transport.get_write_buffer_size() + _queued(transport, TIOCOUTQ)


def _queued(transport: asyncio.Transport, request: int) -> int:
    """Bytes in a kernel queue of the socket: FIONREAD the receive, TIOCOUTQ the send queue."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return 0
    return int.from_bytes(ioctl(connection.fileno(), request, bytes(4)), sys.byteorder)
