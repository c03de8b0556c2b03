"""Log lines about failing forwards: the first in full, then counts, then the recovery."""

import logging
from time import monotonic

QUIET_SECONDS = 10  # between two lines about failures

logger = logging.getLogger("cartpole")


class ForwardFailures:
    """Logs failing forwards, with at most one line about failures in QUIET_SECONDS.

    Attributes:
        is_ongoing: a forward has failed, and no recovery has been logged since.
    """

    def __init__(self) -> None:
        self.is_ongoing = False
        self._is_logged = False  # since the last recovery
        self._count = 0  # failures since the last line
        self._quiet_until = 0.0

    def record(self, error: Exception) -> None:
        """A forward has raised this error."""
        self.is_ongoing = True
        self._count += 1
        now = monotonic()
        if now < self._quiet_until:
            return
        if self._count == 1 and not self._is_logged:
            logger.error("forward failed: %s", error, exc_info=error)
        else:
            logger.error("forward failed: %s (%d since the last line)", error, self._count)
        self._quiet_until = now + QUIET_SECONDS
        self._is_logged = True
        self._count = 0

    def recover(self) -> None:
        """A forward has worked. Call it while `is_ongoing`."""
        if not self._is_logged and monotonic() < self._quiet_until:
            return  # the failures are logged first, when the quiet time ends
        logger.warning("forward recovered (%d failed since the last line)", self._count)
        self.is_ongoing = self._is_logged = False
        self._count = 0
