"""Counters in memory that all workers share: serving a request only adds to them.

cartpole/metrics/prometheus.py renders them.
"""

import logging
import mmap
import os
import time
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cartpole.metrics.rejections import REJECTIONS, Rejection
from cartpole.metrics.routes import BATCH_ROUTES, ROUTES, statuses_of

_STEPS = (1, 2, 5)  # of each power of ten
MICROSECONDS = (5, *(step * 10**power for power in range(1, 6) for step in _STEPS), 10**6)
_NANOSECONDS = tuple(1000 * limit for limit in MICROSECONDS)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # one forward holds at most 256 rows

logger = logging.getLogger("cartpole")


@dataclass(frozen=True, slots=True)
class BatchTimes:
    """Durations of a batch request and of its parts, in nanoseconds."""

    total: int
    parse: int
    forwards: int
    render: int


class _BatchColumns:
    """The counters of a route that answers many rows to one request.

    Attributes:
        rows: rows answered; last_at: when the last were, in milliseconds since 1970.
        good, bad: requests answered, requests refused or failed; and their nanoseconds.
        parse_time, forward_time, render_time: parts of good_time.
    """

    def __init__(self, first: int) -> None:
        self.rows, self.last_at, self.good, self.bad = range(first, first + 4)
        self.good_time, self.bad_time = first + 4, first + 5
        self.parse_time, self.forward_time, self.render_time = range(first + 6, first + 9)


class _Columns:
    """The index of each counter in a worker's row."""

    def __init__(self) -> None:
        self.width = 0
        self.pid, self.connections, self.accepted = self._add(1), self._add(1), self._add(1)
        self.ready, self.restarts = self._add(1), self._add(1)
        self.heartbeats, self.total_requests = self._add(1), self._add(1)
        self.requests = {route: self._add_each(statuses_of(route)) for route in ROUTES}
        self.rejections = {each.reason: self._add(1) for each in REJECTIONS}
        # A histogram has a cell for each bucket, one for values above all limits, and the sum.
        self.request_seconds = self._add(len(MICROSECONDS) + 2)
        self.inference_seconds = self._add(len(MICROSECONDS) + 2)
        self.batch_size = self._add(len(BATCH_SIZES) + 2)
        self.batches = {route: _BatchColumns(self._add(9)) for route in BATCH_ROUTES}

    def _add(self, cells: int) -> int:
        self.width += cells
        return self.width - cells

    def _add_each(self, keys: Iterable[int]) -> dict[int, int]:
        return {int(key): self._add(1) for key in keys}


COLUMNS = _Columns()

# Rows of a supervisor, of its template, and of the first of its workers.
SUPERVISOR_ROW, TEMPLATE_ROW, FIRST_WORKER_ROW = range(3)

# Plain globals: the hot methods below look up no attributes of COLUMNS.
_REQUEST, _FORWARD = COLUMNS.request_seconds, COLUMNS.inference_seconds
_DURATION_SUM = len(MICROSECONDS) + 1
_SIZE, _SIZE_SUM = COLUMNS.batch_size, len(BATCH_SIZES) + 1
_SIZE_BUCKET = [bisect_left(BATCH_SIZES, size) for size in range(BATCH_SIZES[-1] + 1)]
_INFERENCE = COLUMNS.requests["/inference"]
_INFERENCE_OK = _INFERENCE[200]


class SharedCounters:
    """The counters of all workers: a row of 64-bit integers for each, in a file or in this process.

    One process at a time writes into a row. When it has ended, the next process takes over the row
    with all its counts.
    """

    def __init__(self, rows: int, descriptor: int | None = None) -> None:
        """Make rows in a file, or in this process.

        Raises:
            OSError: the file can't be mapped.
        """
        size = rows * COLUMNS.width * 8
        self._memory = mmap.mmap(-1, size) if descriptor is None else _map(descriptor, size)
        cells = memoryview(self._memory).cast("q")
        width = COLUMNS.width
        self.rows = [cells[row * width : (row + 1) * width] for row in range(rows)]

    @classmethod
    def for_workers(cls, workers: int, descriptor: int) -> "SharedCounters":
        """Counters of a supervisor, a template and workers, each of which can be replaced twice."""
        return cls(FIRST_WORKER_ROW + 3 * workers, descriptor)

    def clear_gauges(self, row: int) -> None:
        """Clear the present state of a worker that has ended. Its counts stay."""
        for column in (COLUMNS.pid, COLUMNS.ready, COLUMNS.connections):
            self.rows[row][column] = 0

    def total(self, column: int) -> int:
        return sum(row[column] for row in self.rows)

    def limit_reached(self, limit: int) -> bool:
        """Whether past and present workers have answered this many requests; logs it if so."""
        if self.total(COLUMNS.total_requests) < limit:
            return False
        logger.info("--limit-requests %d is reached: stopping", limit)
        return True


def _map(descriptor: int, size: int) -> mmap.mmap:
    try:
        # Allocate now, so that a lack of memory fails here and not as SIGBUS on a later write.
        os.posix_fallocate(descriptor, 0, size)
        return mmap.mmap(descriptor, size)
    except OSError as error:
        raise OSError(f"can't map the metrics' memory: {error.strerror}") from error


class WorkerCounters:
    """The counters of one worker, which is one row of the shared ones."""

    def __init__(self, shared: SharedCounters | None = None, row: int = 0) -> None:
        self.shared = shared or SharedCounters(1)
        self.take_row(row)

    def take_row(self, row: int) -> None:
        """Count in this row of the shared counters from now on, in the name of this process."""
        self.cells = self.shared.rows[row]
        self.cells[COLUMNS.pid] = os.getpid()
        self._requests_before = self.cells[COLUMNS.total_requests]

    @property
    def accepted(self) -> int:
        """Connections accepted, by earlier processes of this row too."""
        return self.cells[COLUMNS.accepted]

    def mark_ready(self) -> None:
        """Say that this worker serves."""
        self.cells[COLUMNS.ready] = 1

    def heartbeat(self) -> None:
        """Say, once a second, that the event loop of this worker runs."""
        self.cells[COLUMNS.heartbeats] += 1

    def set_total_requests(self, number: int) -> None:
        """Set how many requests of all kinds this process has answered."""
        self.cells[COLUMNS.total_requests] = self._requests_before + number

    def record_forward(self, size: int, nanoseconds: int) -> None:
        """Count one forward of 1 to 256 observations."""
        cells = self.cells
        cells[_FORWARD + bisect_left(_NANOSECONDS, nanoseconds)] += 1
        cells[_FORWARD + _DURATION_SUM] += nanoseconds
        cells[_SIZE + _SIZE_BUCKET[size]] += 1
        cells[_SIZE + _SIZE_SUM] += size

    def record_answers(self, answers: Sequence[tuple[int, bytes]], nanoseconds: int) -> None:
        """Count requests of /inference that were answered together.

        Args:
            answers: the status and body of each.
            nanoseconds: from the head of the first request to the answers.
        """
        cells, requests = self.cells, len(answers)
        good = requests
        for status, _ in answers:
            if status != 200:
                good -= 1
                cells[_INFERENCE[status]] += 1
        cells[_INFERENCE_OK] += good
        cells[_REQUEST + bisect_left(_NANOSECONDS, nanoseconds)] += requests
        cells[_REQUEST + _DURATION_SUM] += nanoseconds * requests

    def record_request(self, route: str, status: int, nanoseconds: int) -> None:
        """Count one request that the application has answered; route is one of ROUTES."""
        column = COLUMNS.requests[route].get(status)
        if column is not None:
            self.cells[column] += 1
        self.cells[_REQUEST + bisect_left(_NANOSECONDS, nanoseconds)] += 1
        self.cells[_REQUEST + _DURATION_SUM] += nanoseconds

    def record_batch(self, route: str, rows: int, times: BatchTimes) -> None:
        """Count the rows of one request of BATCH_ROUTES that is answered, and its times."""
        cells, columns = self.cells, COLUMNS.batches[route]
        cells[columns.rows] += rows
        cells[columns.last_at] = time.time_ns() // 10**6
        cells[columns.good] += 1
        cells[columns.good_time] += times.total
        cells[columns.parse_time] += times.parse
        cells[columns.forward_time] += times.forwards
        cells[columns.render_time] += times.render

    def record_failed_batch(self, route: str, nanoseconds: int) -> None:
        """Count one request of BATCH_ROUTES that is answered with an error."""
        cells, columns = self.cells, COLUMNS.batches[route]
        cells[columns.bad] += 1
        cells[columns.bad_time] += nanoseconds

    def record_rejection(self, rejection: Rejection) -> None:
        """Count one request or connection that was rejected before any route."""
        self.cells[COLUMNS.rejections[rejection.reason]] += 1

    def record_connections(self, open_now: int, accepted: int = 0) -> None:
        """Set how many connections are open, and count those accepted since the last call."""
        self.cells[COLUMNS.connections] = open_now
        self.cells[COLUMNS.accepted] += accepted
