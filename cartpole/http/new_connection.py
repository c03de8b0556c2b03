"""A connection before its first bytes: all that a client needs who connects for each request."""

import asyncio
import os
from typing import Any

from uvicorn.server import ServerState

from cartpole.api.observation import parse_usual
from cartpole.http.closing import has_unread_bytes
from cartpole.http.fast import TARGET, FastConnection
from cartpole.http.last_request import LastRequest
from cartpole.http.shared import Shared
from cartpole.http.time_limits import CLOSE_SECONDS

# Read together with accepting a connection. A request has a few hundred; more is read later.
FIRST_BYTES = 4096


class NewConnection(asyncio.Protocol):
    """Answers one request that is usual, and its connection's last. No parser is made for it.

    A FastConnection takes its place if the client sends anything else.
    """

    def __init__(self, shared: Shared, *, server_state: ServerState, **arguments: Any) -> None:
        """arguments: those of FastConnection."""
        self.server_state = server_state
        self._shared, self._arguments = shared, arguments
        self._unread = b""
        self._has_request = self._is_counted = False
        self._idle_seconds = 0  # before its request, or after the answer
        self._successor: FastConnection | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        connections, turns = self._shared.connections, self._shared.turns
        if connections.are_full() or connections.is_stopping:
            self._become_fast()
            return
        # uvicorn waits for the connections in this set before it ends.
        self.server_state.connections.add(self)  # type: ignore[arg-type]
        connections.add(self)
        self._is_counted = True
        if turns.bytes_this_turn <= turns.bytes_per_turn:
            self._read_at_once()

    def _read_at_once(self) -> None:
        """Most clients send their request at once: it is here before the event loop looks."""
        connection = self.transport.get_extra_info("socket")
        if connection is None:
            return
        try:
            self._unread = os.read(connection.fileno(), FIRST_BYTES)
        except OSError:  # BlockingIOError: nothing has come yet
            return
        if self._unread and not self._answer():
            # A FastConnection may pause reading, which the event loop has not begun yet.
            asyncio.get_running_loop().call_soon(self._read)

    def data_received(self, data: bytes) -> None:
        if not self._has_request:  # else it was the last: what follows is not read
            self._unread += data
            self._read()

    def _read(self) -> None:
        if self._unread and not self._answer():
            self._become_fast()

    def _answer(self) -> bool:
        """Answer a usual request that is the last. False if it is anything else."""
        data, shared, turns = self._unread, self._shared, self._shared.turns
        if (
            not data.startswith(TARGET)
            or len(data) > shared.limits.head_bytes
            or turns.bytes_this_turn > turns.bytes_per_turn
        ):
            return False
        query_end = shared.plain_headers.last_query_end(data, len(TARGET))
        observation = parse_usual(data, len(TARGET), query_end)
        if observation is None:
            return False
        self._has_request, self._unread, self._idle_seconds = True, b"", 0
        shared.batcher.add(LastRequest(self), observation)
        if shared.connections.is_one():  # nobody else can ask in this turn
            turns.answer_now()
        else:
            if not turns.bytes_this_turn:
                turns.begin()
            turns.bytes_this_turn += len(data)
        return True

    def eof_received(self) -> bool:
        self._read()
        self._shared.batcher.flush()
        return self._successor is not None and self._successor.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._unread = b""
        self.server_state.connections.discard(self)
        self._shared.connections.remove(self)

    def abort(self) -> None:
        self.transport.abort()

    def check_time(self) -> None:
        """Called once a second."""
        self._idle_seconds += 1
        connections, limits = self._shared.connections, self._shared.limits
        is_over = self._idle_seconds > limits.keep_alive_seconds or connections.idle_grace_is_over()
        if self._has_request:
            if self._idle_seconds > CLOSE_SECONDS:
                self.abort()
        elif is_over and not has_unread_bytes(self.transport):  # else a request has just come
            self.transport.close()

    def shutdown(self) -> None:
        """The service stops. A request may still be on its way."""
        self._read()
        self._shared.batcher.flush()
        if self._successor:
            self._successor.shutdown()

    def _become_fast(self) -> FastConnection:
        """Put a FastConnection in this one's place, and let it read."""
        connection = self._successor = FastConnection(
            self._shared, server_state=self.server_state, **self._arguments
        )
        if self._is_counted:  # else the new one will be
            self.server_state.connections.discard(self)
            self._shared.connections.replace(self, connection)
        self.transport.set_protocol(connection)
        connection.connection_made(self.transport)
        data, self._unread = self._unread, b""
        if data:
            connection.data_received(data)
        return connection
