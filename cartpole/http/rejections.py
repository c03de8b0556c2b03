"""Answers to requests and connections that are rejected before they reach a route."""

import logging
from collections import Counter
from http import HTTPStatus

from cartpole.api.responses import CLOSE, Headers, headers, render_error
from cartpole.http.clock import Clock
from cartpole.http.response_heads import encode_head
from cartpole.metrics.counters import WorkerCounters
from cartpole.metrics.rejections import REJECTIONS

LOG_SECONDS = 10  # at most one line about rejections in this time
RETRY_AFTER = (b"retry-after", b"1")  # seconds

logger = logging.getLogger("cartpole")


def encode_rejection(status: HTTPStatus, default: Headers, is_head: bool = False) -> bytes:
    """The last answer on a connection.

    Args:
        status: a key of REJECTIONS.
        default: headers that every answer carries.
        is_head: the request is a HEAD, whose answer has no body: RFC 9110, section 9.3.2.
    """
    body = render_error(REJECTIONS[status].message)
    retry = [RETRY_AFTER] if status == HTTPStatus.SERVICE_UNAVAILABLE else []
    head = encode_head(status, [*default, *headers(len(body)), *retry, CLOSE])
    return head if is_head else head + body


class RejectionLog:
    """Counts rejections, and logs a summary of them at a bounded rate."""

    def __init__(self, clock: Clock, counters: WorkerCounters) -> None:
        self._clock, self._counters = clock, counters
        self._since_last_line: Counter[int] = Counter()
        self._logged_at = -LOG_SECONDS

    def record(self, status: HTTPStatus) -> None:
        self._since_last_line[status] += 1
        self._counters.record_rejection(status)

    def report(self) -> None:
        """Log the summary if one is due. Called once a second."""
        counts = self._since_last_line
        if counts and self._clock.now - self._logged_at >= LOG_SECONDS:
            summary = ", ".join(f"{count} of {status:d}" for status, count in counts.items())
            logger.warning("rejected since the last such line: %s", summary)
            counts.clear()
            self._logged_at = self._clock.now
