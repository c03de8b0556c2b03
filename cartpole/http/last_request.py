"""The last request of a connection, answered on the fast path."""

import asyncio
from typing import Protocol

from uvicorn.server import ServerState

from cartpole.api.responses import CLOSE
from cartpole.http.closing import close

_HEAD_END = b"\r\n%b: %b\r\n\r\n" % CLOSE


class Connection(Protocol):
    transport: asyncio.Transport
    server_state: ServerState

    def abort(self) -> None: ...


class LastRequest:
    """Stands for its connection in the batcher: writes the answer, says so, and closes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def transport(self) -> "LastRequest":
        return self

    @property
    def server_state(self) -> ServerState:
        return self._connection.server_state

    def abort(self) -> None:
        self._connection.abort()

    def is_closing(self) -> bool:
        return self._connection.transport.is_closing()

    def write(self, answer: bytes) -> None:
        transport = self._connection.transport
        transport.write(answer.replace(b"\r\n\r\n", _HEAD_END, 1))
        close(transport)
