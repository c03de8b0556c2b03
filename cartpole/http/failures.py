"""An error of our own ends the connections that it concerns; the others go on."""

import logging
from typing import Protocol

from cartpole.http.clock import Clock

LOG_SECONDS = 10  # at most one line, with the traceback of one error, in this time

logger = logging.getLogger("cartpole")


class Abortable(Protocol):
    def abort(self) -> None: ...


class ConnectionFailures:
    """Aborts connections after an error of our own, and logs that at a bounded rate."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._count = 0  # connections since the last line
        self._logged_at = -LOG_SECONDS

    def abort(self, *connections: Abortable) -> None:
        """Call it while handling the exception."""
        self._count += len(connections)
        if self._clock.now - self._logged_at >= LOG_SECONDS:
            logger.exception("%d connections ended by an error; one of them:", self._count)
            self._count, self._logged_at = 0, self._clock.now
        for connection in connections:
            connection.abort()
