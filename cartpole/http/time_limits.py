"""How long a client may take: to send a request, to stay idle, to read its answers."""

import asyncio
import sys
from enum import Enum
from fcntl import ioctl
from termios import FIONREAD, TIOCOUTQ

from cartpole.http.connections import RESERVE_SECONDS, Connections
from cartpole.http.limits import ClientLimits

CLOSE_SECONDS = 2  # after the last answer, or after the client has last read a part of it


class Awaited(Enum):
    """The next thing that a connection needs, be it from the service or from the client."""

    ANSWER = "the service"
    REQUEST = "the first byte of a request"
    HEAD = "the rest of a head"
    BODY = "the rest of a body"
    READER = "the client, to read its answers"
    END = "the client, to read the last answer and to close"


class Verdict(Enum):
    """The end of a connection whose client has taken too long."""

    REJECT = "say so, and end"
    FINISH = "end without an answer, once the client has read those before"
    CLOSE = "end at once, as nothing is on its way"
    ABORT = "end at once, whatever is still on its way"


class TimeLimits:
    """Counts the seconds that one client takes, and holds them against the limits.

    Attributes:
        age: since the connection was made.
        idle: since the client has last sent something, or the service has answered; 0 is set.
        message: that the client takes for the present request; 0 is set at its first byte.
    """

    def __init__(self, limits: ClientLimits, connections: Connections) -> None:
        self._limits, self._connections = limits, connections
        self.age = self.idle = self.message = 0
        self._was_spared = False  # bytes had come when the client's time was over
        self._unacknowledged = 0  # bytes, at the last check
        self._since_reading = 0  # since the client is waited for to read its answers

    def await_reader(self) -> None:
        """From now on the client takes its time to read its answers."""
        self.idle = self._since_reading = 0

    def check(
        self, awaited: Awaited, transport: asyncio.Transport, in_reserve: bool
    ) -> Verdict | None:
        """A second has passed: whether the client has taken too long.

        Args:
            in_reserve: the connection is one past the limit.
        """
        self.age += 1
        is_over = in_reserve and self.age > RESERVE_SECONDS
        if awaited is Awaited.ANSWER:
            return None
        if awaited is Awaited.READER or awaited is Awaited.END:
            return self._check_reader(awaited, transport)
        if awaited is Awaited.REQUEST:
            self.idle += 1
            self._was_spared = self._was_spared and self.idle > 1
            is_late = self.idle > self._limits.keep_alive_seconds
            if not (is_over or is_late or self._connections.idle_grace_is_over()):
                return None
            if _queued(transport, FIONREAD) and not self._was_spared:
                self._was_spared = True  # a request may have just come
                return None
            return Verdict.REJECT if is_over else Verdict.CLOSE
        self.message += 1
        if self._connections.unfinished_grace_is_over():
            return Verdict.FINISH
        is_late = awaited is Awaited.HEAD and self.message > self._limits.head_seconds
        is_late = is_late or self.message > self._limits.keep_alive_seconds
        return Verdict.REJECT if is_late or is_over else None

    def _check_reader(self, awaited: Awaited, transport: asyncio.Transport) -> Verdict | None:
        """Clients that go on reading have more time, but not for ever."""
        keep_alive, unacknowledged = self._limits.keep_alive_seconds, _unacknowledged(transport)
        self.idle += 1
        self._since_reading += 1
        if unacknowledged < self._unacknowledged and self._since_reading < keep_alive:
            self.idle = 0
        self._unacknowledged = unacknowledged
        is_over = self.idle > keep_alive or self._connections.unfinished_grace_is_over()
        if awaited is Awaited.END:
            is_over = self.idle >= CLOSE_SECONDS
        return Verdict.ABORT if is_over else None


def _unacknowledged(transport: asyncio.Transport) -> int:
    """Bytes that we have written and the client's kernel has not acknowledged."""
    return transport.get_write_buffer_size() + _queued(transport, TIOCOUTQ)


def _queued(transport: asyncio.Transport, request: int) -> int:
    """Bytes in a kernel queue of the socket: FIONREAD the receive, TIOCOUTQ the send queue."""
    connection = transport.get_extra_info("socket")
    if connection is None or connection.fileno() < 0:
        return 0
    return int.from_bytes(ioctl(connection.fileno(), request, bytes(4)), sys.byteorder)
