"""Log lines about failing forwards: the first in full, then counts, then the recovery."""

import logging

from cartpole.logs import Throttle

logger = logging.getLogger("cartpole")


class ForwardFailures:
    """Logs failing forwards, with a bound on the lines about failures.

    Attributes:
        is_ongoing: a forward has failed, and no recovery has been logged since.
    """

    def __init__(self) -> None:
        self.is_ongoing = False
        self._is_logged = False  # since the last recovery
        self._count = 0  # failures since the last line
        self._throttle = Throttle()

    def record(self, error: Exception) -> None:
        """A forward has raised this error."""
        self.is_ongoing = True
        self._count += 1
        if not self._throttle.admit():
            return
        if self._count == 1 and not self._is_logged:
            logger.error("forward failed: %s", error, exc_info=error)
        else:
            logger.error("forward failed: %s (%d since the last line)", error, self._count)
        self._is_logged = True
        self._count = 0

    def recover(self) -> None:
        """A forward has worked. Call it while `is_ongoing`."""
        if not self._is_logged and self._throttle.is_quiet():
            return  # the failures are logged first, when the quiet time ends
        logger.warning("forward recovered (%d failed since the last line)", self._count)
        self.is_ongoing = self._is_logged = False
        self._count = 0
