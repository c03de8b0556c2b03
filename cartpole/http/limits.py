"""What clients may ask of a worker, and what all its connections share."""

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from cartpole.http.busy_poll import BusyPoll
from cartpole.metrics.counters import Metrics

if TYPE_CHECKING:
    from cartpole.http.connection import LimitedProtocol

# Connections past the limit that may still ask for the health; more are closed at once.
HEALTH_RESERVE = 16
RESERVE_SECONDS = 1  # that each of them may take to ask
UNFINISHED_GRACE_SECONDS = 3  # after the stop, for requests and for answers that nobody reads
IDLE_GRACE_SECONDS = 1  # what is on its way on an idle connection arrives before that is closed
WAITING_SHARE = 4  # while some wait, turns are shorter by so much: who is new need not
REFUSALS_LOG_SECONDS = 10  # at most one line about refusals in so many
ERRORS_LOG_SECONDS = 10  # the same for errors of our own, with the traceback of one

logger = logging.getLogger("cartpole")


class Connection(Protocol):
    """An HTTP connection, or a TLS connection whose handshake goes on."""

    def check_time(self) -> None: ...

    def abort(self) -> None: ...


@dataclass(frozen=True)
class Limits:
    """What a client may ask of one worker; see the settings of the same names."""

    head_bytes: int = 16 * 1024
    head_seconds: int = 10
    body_bytes: int = 1024 * 1024
    keep_alive_seconds: int = 75
    connections: int = 10_000


@dataclass
class Worker:
    """What all connections of a worker share.

    Attributes:
        limits: what clients may ask of it.
        metrics: what counts connections and refusals.
        busy_poll: what keeps the loop from sleeping, if anything.
        stopping: whether connections are closed as soon as nothing is owed on them.
        second: a clock that one callback a second moves on, in place of timers per request.
        connections: those that are open.
        taken: bytes that this turn of the event loop has read; past turn_bytes others wait.
        turn_bytes: how many it reads, so that turns stay short whatever is offered.
    """

    limits: Limits
    metrics: Metrics
    busy_poll: BusyPoll | None = None
    second: int = 0
    stopping: bool = False
    connections: set[Connection] = field(default_factory=set)
    taken: int = 0
    turn_bytes: int = 16 * 1024
    _waiting: deque["LimitedProtocol"] = field(default_factory=deque)
    _refused: Counter[int] = field(default_factory=Counter)
    _logged: int = -REFUSALS_LOG_SECONDS
    _failures: int = 0
    _failure_logged: int = -ERRORS_LOG_SECONDS
    _stopped: int = 0

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._call_soon = loop.call_soon
        if self.busy_poll:
            self.busy_poll.start(loop)
        loop.call_later(1, self._sweep, loop)

    def admit(self, connection: Connection) -> int:
        """How many more there are with this new one than the limit says; it is counted anyway."""
        if connection in self.connections:  # with TLS it was let in before the handshake
            return 0
        self.connections.add(connection)
        self.metrics.connections(len(self.connections), accepted=1)
        return len(self.connections) - self.limits.connections

    def replace(self, handshake: Connection, connection: Connection) -> None:
        """The handshake is done."""
        self.connections.discard(handshake)
        self.connections.add(connection)

    def leave(self, connection: Connection) -> None:
        self.connections.discard(connection)
        self.metrics.connections(len(self.connections))
        if self.busy_poll and not self.connections:
            self.busy_poll.stop()

    def begin_turn(self) -> None:
        """To be called when the first bytes of a turn are read."""
        self._call_soon(self.end_turn)
        if self.busy_poll:
            self.busy_poll.wake()

    def wait(self, connection: "LimitedProtocol") -> None:
        """Have it go on with what it holds in a later turn, after those that wait already."""
        self._waiting.append(connection)

    def flush(self) -> None:
        """Answer what has been read: as it is read, unless requests are collected."""

    def end_turn(self) -> None:
        """Answer what was read, and let those go on that wait, for a part as many bytes."""
        self.taken = 0
        waiting = self._waiting
        again = bool(waiting)
        try:
            self.flush()
            if again:
                self._let_go_on()
                self.flush()
        finally:  # without a next turn nobody would ever be answered
            if again:
                # While some wait, whoever comes waits behind them.
                self.taken = self.turn_bytes + 1 if waiting else 1
                self._call_soon(self.end_turn)

    def _let_go_on(self) -> None:
        waiting = self._waiting
        for _ in range(len(waiting)):
            if self.taken > self.turn_bytes // WAITING_SHARE:
                break
            connection = waiting.popleft()
            try:
                connection.go_on()
            except Exception:
                self.failed(connection)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(1, self._sweep, loop)  # before anything that could raise
        self.tick()

    def tick(self) -> None:
        """A second has passed."""
        self.metrics.beat()
        self.flush()  # nobody's time runs out on what has been read already
        self.second += 1
        for connection in tuple(self.connections):
            try:
                connection.check_time()
            except Exception:
                self.failed(connection)
        if self._refused and self.second - self._logged >= REFUSALS_LOG_SECONDS:
            reasons = ", ".join(f"{count} of {status}" for status, count in self._refused.items())
            logger.warning("refused since the last such line: %s", reasons)
            self._refused.clear()
            self._logged = self.second

    def failed(self, *connections: Connection) -> None:
        """An error of our own, just caught, ends these connections; the others go on."""
        self._failures += len(connections)
        if self.second - self._failure_logged >= ERRORS_LOG_SECONDS:
            logger.exception("%d connections ended by an error, of which one is:", self._failures)
            self._failures, self._failure_logged = 0, self.second
        for connection in connections:
            connection.abort()

    def refused(self, status: int) -> None:
        self._refused[status] += 1
        self.metrics.refused(status)

    def stop(self) -> None:
        """Answer what still comes, each connection for the last time."""
        self.stopping = True
        self._stopped = self.second

    def close_idle(self) -> bool:
        return self.stopping and self.second - self._stopped > IDLE_GRACE_SECONDS

    def close_unfinished(self) -> bool:
        return self.stopping and self.second - self._stopped > UNFINISHED_GRACE_SECONDS
