"""Rejections are counted one by one, and logged together."""

import logging
from collections import Counter

from cartpole.logs import Throttle
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.rejections import Rejection

logger = logging.getLogger("cartpole")


class RejectionLog:
    """Counts rejections, and logs a summary of them at a bounded rate."""

    def __init__(self, counters: WorkerCounters) -> None:
        self._counters = counters
        self._since_last_line: Counter[int] = Counter()
        self._throttle = Throttle()

    def record(self, rejection: Rejection) -> None:
        self._since_last_line[rejection.status] += 1
        self._counters.record_rejection(rejection)

    def report(self) -> None:
        """Log the summary if one is due. Called once a second."""
        counts = self._since_last_line
        if counts and self._throttle.admit():
            summary = ", ".join(f"{count} of {status:d}" for status, count in counts.items())
            logger.warning("rejected since the last such line: %s", summary)
            counts.clear()
