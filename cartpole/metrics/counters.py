"""What the service has done, as numbers in memory that all workers share.

On the way of a request they are only added to; cartpole/exposition.py tells them.
"""

import logging
import mmap
import os
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

logger = logging.getLogger("cartpole")

_STEPS = (1, 2, 5)  # of each power of ten
MICROSECONDS = (5, *(step * 10**power for power in range(1, 6) for step in _STEPS), 10**6)
_NANOSECONDS = tuple(1000 * limit for limit in MICROSECONDS)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
ROUTES = ("/inference", "/health/live", "/health/ready", "/metrics", "other")
STATUSES = (200, 204, 400, 404, 405, 500, 503)
# Of the protocol, before any route; 503: too many connections.
REFUSALS = (400, 408, 413, 417, 431, 501, 503, 505)


class _Columns:
    """Where each number is in a worker's row."""

    def __init__(self) -> None:
        self.width = 0
        self.pid, self.connections, self.accepted = self._take(1), self._take(1), self._take(1)
        self.ready, self.restarts = self._take(1), self._take(1)
        self.beats, self.total_requests = self._take(1), self._take(1)
        self.requests = {route: self._table(STATUSES) for route in ROUTES}
        self.refusals = self._table(REFUSALS)
        # Of a histogram: its buckets, the one above all limits, and the sum.
        self.request_seconds = self._take(len(MICROSECONDS) + 2)
        self.inference_seconds = self._take(len(MICROSECONDS) + 2)
        self.batch_size = self._take(len(BATCH_SIZES) + 2)

    def _take(self, number: int) -> int:
        self.width += number
        return self.width - number

    def _table(self, keys: Sequence[int]) -> dict[int, int]:
        return {key: self._take(1) for key in keys}


COLUMNS = _Columns()
_DURATION_SUM = len(MICROSECONDS) + 1
_SIZE_BUCKET = [bisect_left(BATCH_SIZES, size) for size in range(BATCH_SIZES[-1] + 1)]


class Board:
    """The memory of all workers: one row of 64-bit integers for each, in a file or in this process.

    Only one process writes into a row at a time; a row whose process has ended is taken over, with
    what it holds, by the next.
    """

    def __init__(self, rows: int, path: Path | None = None) -> None:
        """Raises OSError where the file can't be mapped."""
        size = rows * COLUMNS.width * 8
        self._memory = mmap.mmap(-1, size) if path is None else _map(path, size)
        cells = memoryview(self._memory).cast("q")
        width = COLUMNS.width
        self.rows = [cells[row * width : (row + 1) * width] for row in range(rows)]

    @classmethod
    def shared(cls, workers: int, path: Path) -> "Board":
        """That of a supervisor and its workers, of which each may be replaced twice over."""
        return cls(3 * workers + 1, path)

    @staticmethod
    def new_file() -> Path:
        """A file for a board of several processes; it goes with the process that makes it."""
        return Path(f"/proc/{os.getpid()}/fd/{os.memfd_create('cartpole-metrics')}")

    def clear_gauges(self, row: int) -> None:
        """Of a worker that has ended; what it has counted stays."""
        for column in (COLUMNS.pid, COLUMNS.ready, COLUMNS.connections):
            self.rows[row][column] = 0

    def total(self, column: int) -> int:
        return sum(row[column] for row in self.rows)

    def reached(self, limit: int) -> bool:
        """Whether all workers that ever were have answered so many requests; logs it if so."""
        if self.total(COLUMNS.total_requests) < limit:
            return False
        logger.info("--limit-requests %d is reached: stopping", limit)
        return True


def _map(path: Path, size: int) -> mmap.mmap:
    try:
        with open(path, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, size)  # no memory shows here, not at a write
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        raise OSError(f"can't map the metrics' memory: {error.strerror}") from error


class Metrics:
    """One worker's row of the board: what it counts."""

    def __init__(self, board: Board | None = None, row: int = 0) -> None:
        self.board = board or Board(1)
        self.cells = self.board.rows[row]
        self.cells[COLUMNS.pid] = os.getpid()
        self._requests_before = self.cells[COLUMNS.total_requests]

    @property
    def accepted(self) -> int:
        """Connections accepted."""
        return self.cells[COLUMNS.accepted]

    def ready(self) -> None:
        """This worker serves."""
        self.cells[COLUMNS.ready] = 1

    def beat(self) -> None:
        """Once a second: the event loop turns."""
        self.cells[COLUMNS.beats] += 1

    def total_requests(self, number: int) -> None:
        """So many requests of all kinds has this process answered."""
        self.cells[COLUMNS.total_requests] = self._requests_before + number

    def forward(self, size: int, nanoseconds: int) -> None:
        """One forward of so many observations."""
        cells = self.cells
        cells[FORWARD + bisect_left(_NANOSECONDS, nanoseconds)] += 1
        cells[FORWARD + _DURATION_SUM] += nanoseconds
        cells[SIZE + _SIZE_BUCKET[size]] += 1
        cells[SIZE + _SIZE_SUM] += size

    def answered(self, answers: Sequence[tuple[int, bytes]], nanoseconds: int) -> None:
        """Requests of /inference that were answered together: their statuses and bodies."""
        cells, requests = self.cells, len(answers)
        good = requests
        for status, _ in answers:
            if status != 200:
                good -= 1
                cells[_INFERENCE[status]] += 1
        cells[_GOOD] += good
        cells[REQUEST + bisect_left(_NANOSECONDS, nanoseconds)] += requests
        cells[REQUEST + _DURATION_SUM] += nanoseconds * requests

    def request(self, path: str, status: int, nanoseconds: int) -> None:
        """One request that the application has answered."""
        route = path if path in COLUMNS.requests else "other"
        column = COLUMNS.requests[route].get(status)
        if column is not None:
            self.cells[column] += 1
        self.cells[REQUEST + bisect_left(_NANOSECONDS, nanoseconds)] += 1
        self.cells[REQUEST + _DURATION_SUM] += nanoseconds

    def refused(self, status: int) -> None:
        self.cells[COLUMNS.refusals[status]] += 1

    def connections(self, open_now: int, accepted: int = 0) -> None:
        self.cells[COLUMNS.connections] = open_now
        self.cells[COLUMNS.accepted] += accepted


FORWARD, REQUEST = COLUMNS.inference_seconds, COLUMNS.request_seconds
SIZE, _SIZE_SUM = COLUMNS.batch_size, len(BATCH_SIZES) + 1
_INFERENCE = COLUMNS.requests["/inference"]
_GOOD = _INFERENCE[200]
