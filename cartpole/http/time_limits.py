"""How long a client may take: to send a request, to stay idle, to read its answers."""

import asyncio
from http import HTTPStatus
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl

from cartpole.http.clock import Clock
from cartpole.http.closing import unacknowledged_bytes
from cartpole.http.connections import RESERVE_SECONDS, Connections
from cartpole.http.limits import ClientLimits

CLOSE_SECONDS = 2  # after the last answer, or after the client has last read a part of it


class TimedConnection(Protocol):
    """The part of a connection that the time limits use."""

    finished: bool
    over_limit: bool
    in_head: bool
    in_message: bool
    transport: asyncio.Transport
    flow: FlowControl

    def has_deferred(self) -> bool: ...
    def is_answering(self) -> bool: ...
    def reject(self, status: HTTPStatus) -> None: ...
    def hang_up(self) -> None: ...


class TimeLimits:
    """The times of one connection, in seconds of the shared clock, and their limits.

    Attributes:
        opened_at: when the connection was made.
        last_activity: when the client has last sent something, or the service last answered.
    """

    __slots__ = (
        "_clock",
        "_closing_since",
        "_connections",
        "_limits",
        "_message_began_at",
        "_paused_at",
        "_unacknowledged",
        "last_activity",
        "opened_at",
    )

    def __init__(self, limits: ClientLimits, clock: Clock, connections: Connections) -> None:
        self._limits, self._clock, self._connections = limits, clock, connections
        self.opened_at = self.last_activity = clock.now
        self._message_began_at = self._paused_at = clock.now
        self._closing_since: int | None = None
        self._unacknowledged = 0  # bytes, at the last check

    def begin_message(self) -> None:
        """From now on the client takes its time over a request."""
        self._message_began_at = self._clock.now

    def pause(self) -> None:
        """The service reads no more."""
        self._paused_at = self._clock.now

    def resume(self) -> None:
        """The service reads again. The pause does not count as the client's time."""
        now = self._clock.now
        self._message_began_at = min(now, self._message_began_at + now - self._paused_at)

    def begin_closing(self) -> None:
        """The last answer is written."""
        self._closing_since = self.last_activity = self._clock.now

    def check(self, connection: TimedConnection) -> None:
        """End what has taken too long. Called once a second."""
        if connection.finished or connection.transport.is_closing():
            self._check_closing(connection)
        elif connection.has_deferred():
            pass  # the service takes long, not the client
        elif connection.flow.write_paused:
            idle_seconds = self._clock.now - self.last_activity
            is_slow = idle_seconds > self._limits.keep_alive_seconds
            if is_slow or self._connections.unfinished_grace_is_over():
                connection.transport.abort()  # the client does not read its answers
        else:
            self._check_request(connection)

    def _check_closing(self, connection: TimedConnection) -> None:
        now, unacknowledged = self._clock.now, unacknowledged_bytes(connection.transport)
        client_reads = unacknowledged < self._unacknowledged
        self._unacknowledged = unacknowledged
        if self._closing_since is None:
            self._closing_since = self.last_activity = now
        elif client_reads and now - self._closing_since < self._limits.keep_alive_seconds:
            self.last_activity = now
        elif now - self.last_activity >= CLOSE_SECONDS:
            connection.transport.abort()

    def _check_request(self, connection: TimedConnection) -> None:
        now, connections = self._clock.now, self._connections
        reads_message = connection.in_message and not connection.flow.read_paused
        if reads_message and connection.in_head and self._head_is_late():
            return connection.reject(HTTPStatus.REQUEST_TIMEOUT)
        if reads_message:
            since, must_end = self._message_began_at, connections.unfinished_grace_is_over()
        elif connection.is_answering():
            return
        else:
            since, must_end = self.last_activity, connections.idle_grace_is_over()
        seconds = self._limits.keep_alive_seconds
        if connection.over_limit:
            since, seconds = self.opened_at, RESERVE_SECONDS
        if must_end or now - since > seconds:
            self._end(connection, must_end)

    def _head_is_late(self) -> bool:
        return self._clock.now - self._message_began_at > self._limits.head_seconds

    def _end(self, connection: TimedConnection, must_end: bool) -> None:
        if connection.over_limit and not connection.is_answering():
            connection.reject(HTTPStatus.SERVICE_UNAVAILABLE)
        elif connection.in_message and not (must_end or connection.is_answering()):
            connection.reject(HTTPStatus.REQUEST_TIMEOUT)
        else:
            connection.hang_up()
