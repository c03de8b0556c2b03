"""All open connections of a serving process: admission, the sweep once a second, the end."""

import asyncio
from collections.abc import Callable
from typing import Protocol

from cartpole.http.clock import Clock
from cartpole.http.failures import ConnectionFailures
from cartpole.http.limits import ClientLimits
from cartpole.http.polling import Polling
from cartpole.http.rejections import RejectionLog
from cartpole.metrics.counters import WorkerCounters

# Connections past the limit that may still ask for the health. Any more are closed at once.
HEALTH_RESERVE = 16
RESERVE_SECONDS = 1  # that each of those may take to ask
# After the stop: for requests that are not whole, and for answers that their client doesn't read.
UNFINISHED_GRACE_SECONDS = 3
IDLE_GRACE_SECONDS = 1  # after the stop: for a request that is on its way on an idle connection


class Connection(Protocol):
    """An HTTP connection, or a TLS connection during its handshake."""

    def check_time(self) -> None: ...

    def abort(self) -> None: ...


class Connections:
    """The open connections, and how long each may last.

    Attributes:
        is_stopping: each connection is closed once its requests are answered.
        rejections: what counts and logs rejected requests and connections.
    """

    def __init__(
        self,
        limits: ClientLimits,
        clock: Clock,
        counters: WorkerCounters,
        flush: Callable[[], None],
        failures: ConnectionFailures,
        polling: Polling,
    ) -> None:
        self.is_stopping = False
        self.rejections = RejectionLog(clock, counters)
        self._limits, self._clock, self._counters = limits, clock, counters
        self._flush, self._failures, self._polling = flush, failures, polling
        self._open: set[Connection] = set()
        self._stopped_at = 0
        self._grow: Callable[[int], object] = int  # does nothing

    def on_growth(self, grow: Callable[[int], object]) -> None:
        """Call this with the number of open connections, at each new one, until the stop."""
        self._grow = grow

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(1, self._sweep, loop)

    def add(self, connection: Connection) -> int:
        """Count a new connection. Returns by how many the limit is exceeded with it."""
        if connection in self._open:  # TLS: it was counted before its handshake
            return 0
        self._open.add(connection)
        self._counters.record_connections(len(self._open), accepted=1)
        if not self.is_stopping:
            self._grow(len(self._open))
        return len(self._open) - self._limits.connections

    def is_one(self) -> bool:
        return len(self._open) == 1

    def are_full(self) -> bool:
        return len(self._open) >= self._limits.connections

    def replace(self, former: Connection, connection: Connection) -> None:
        """This connection takes the place of a former one, such as a TLS handshake that is done."""
        self._open.discard(former)
        self._open.add(connection)

    def remove(self, connection: Connection) -> None:
        self._open.discard(connection)
        self._counters.record_connections(len(self._open))
        if not self._open:
            self._polling.stop()

    def any_open(self) -> bool:
        return bool(self._open)

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.call_later(1, self._sweep, loop)  # first, since the rest could raise
        self.tick()

    def tick(self) -> None:
        """A second has passed: end what has taken too long."""
        self._counters.heartbeat()
        self._flush()  # what has been read already is in time
        self._clock.now += 1
        for connection in tuple(self._open):
            try:
                connection.check_time()
            except Exception:
                self._failures.abort(connection)
        self.rejections.report()

    def stop(self) -> None:
        """Answer what still comes. Each answer is the last on its connection."""
        self.is_stopping = True
        self._stopped_at = self._clock.now

    def idle_grace_is_over(self) -> bool:
        return self.is_stopping and self._clock.now - self._stopped_at > IDLE_GRACE_SECONDS

    def unfinished_grace_is_over(self) -> bool:
        return self.is_stopping and self._clock.now - self._stopped_at > UNFINISHED_GRACE_SECONDS
