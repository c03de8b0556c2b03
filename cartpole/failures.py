"""The log lines of failing forwards: the first in full, then a count, then the recovery."""

import logging
from time import monotonic

QUIET_SECONDS = 10

logger = logging.getLogger("cartpole")


class Failures:
    """Logs failing forwards, with at most one line of failure in QUIET_SECONDS.

    Attributes:
        ongoing: whether `recovered` wants to hear of the next forward that works.
    """

    def __init__(self) -> None:
        self.ongoing = False
        self._logged = False  # that there are failures, since the last recovery
        self._count = 0  # failures since the last line
        self._quiet_until = 0.0

    def failed(self, error: Exception) -> None:
        """A forward raised this."""
        self.ongoing = True
        self._count += 1
        now = monotonic()
        if now < self._quiet_until:
            return
        if self._count == 1 and not self._logged:
            logger.error("forward failed: %s", error, exc_info=error)
        else:
            logger.error("forward failed: %s (%d since the last line)", error, self._count)
        self._quiet_until = now + QUIET_SECONDS
        self._logged = True
        self._count = 0

    def recovered(self) -> None:
        """A forward worked. Failures that no line has told of yet wait for the end of the quiet."""
        if not self._logged and monotonic() < self._quiet_until:
            return
        logger.warning("forward recovered (%d failed since the last line)", self._count)
        self.ongoing = self._logged = False
        self._count = 0
