"""All open connections of a serving process: admission, the sweep once a second, the end."""

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import Any, Protocol

from uvicorn.server import ServerState

from cartpole.http.limits import ClientLimits
from cartpole.http.polling import Polling
from cartpole.logs import Failures
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.rejection_log import RejectionLog

# Connections past the limit that may still ask for the health. Any more are closed at once.
HEALTH_RESERVE = 16
RESERVE_SECONDS = 1  # that each of those may take to ask
# After the stop: for requests that are not whole, and for answers that their client doesn't read.
UNFINISHED_GRACE_SECONDS = 3
IDLE_GRACE_SECONDS = 1  # after the stop: for a request that is on its way on an idle connection


class Admission(Enum):
    """How much a connection may ask for."""

    ALL = "within the limit"
    HEALTH = "past the limit, within the reserve"
    NOTHING = "past both"


class Open(Protocol):
    """An HTTP connection, or a TLS connection during its handshake."""

    def check_time(self) -> None: ...
    def shutdown(self) -> None: ...
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
        counters: WorkerCounters,
        flush: Callable[[], None],
        failures: Failures,
        polling: Polling,
    ) -> None:
        self.is_stopping = False
        self.rejections = RejectionLog(counters)
        self._limits, self._counters = limits, counters
        self._flush, self._failures, self._polling = flush, failures, polling
        self._open: set[Any] = set()
        self._seconds_stopping = 0
        self._grow: Callable[[int], object] = int  # does nothing

    def on_growth(self, grow: Callable[[int], object]) -> None:
        """Call this with the number of open connections, at each new one, until the stop."""
        self._grow = grow

    def start(self, state: ServerState) -> None:
        """Keep the open connections where uvicorn's server looks for them when it stops."""
        self._open = state.connections

    def admit(self, connection: Open) -> Admission:
        """Count a new connection, and say what it may ask."""
        self._open.add(connection)
        number = len(self._open)
        self._counters.record_connections(number, accepted=1)
        if not self.is_stopping:
            self._grow(number)
        if number <= self._limits.connections:
            return Admission.ALL
        is_within = number <= self._limits.connections + HEALTH_RESERVE
        return Admission.HEALTH if is_within else Admission.NOTHING

    def replace(self, handshake: Open, connection: Open) -> None:
        """A TLS handshake is done: the HTTP connection takes its place."""
        self._open.discard(handshake)
        self._open.add(connection)

    def remove(self, connection: Open) -> None:
        self._open.discard(connection)
        self._counters.record_connections(len(self._open))
        if not self._open:
            self._polling.stop()

    def is_one(self) -> bool:
        return len(self._open) == 1

    def any_open(self) -> bool:
        return bool(self._open)

    def sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tick once a second from now on."""
        loop.call_later(1, self.sweep, loop)  # first, since the rest could raise
        self.tick()

    def tick(self) -> None:
        """A second has passed: end what has taken too long."""
        self._counters.heartbeat()
        self._flush()  # what has been read already is in time
        self._seconds_stopping += self.is_stopping
        for connection in tuple(self._open):
            try:
                connection.check_time()
            except Exception:
                self._failures.abort(connection)
        self.rejections.report()

    def stop(self) -> None:
        """Answer what still comes. Each answer is the last on its connection."""
        self.is_stopping = True
        for connection in tuple(self._open):
            connection.shutdown()

    def idle_grace_is_over(self) -> bool:
        return self._seconds_stopping > IDLE_GRACE_SECONDS

    def unfinished_grace_is_over(self) -> bool:
        return self._seconds_stopping > UNFINISHED_GRACE_SECONDS
