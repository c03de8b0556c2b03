"""The processes of the workers, and a row of the shared counters for each."""

import logging
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress

from cartpole.metrics.counters import COLUMNS, FIRST_WORKER_ROW, SUPERVISOR_ROW, SharedCounters
from cartpole.process.children import Child, Template, Worker
from cartpole.settings import Settings

MAX_STEP_SECONDS = 1  # a longer step of the supervisor counts as this

logger = logging.getLogger("cartpole")


class RunningClock:
    """Seconds that the supervisor was running.

    When the whole machine pauses, so do the workers. That pause counts towards no time-out.
    """

    def __init__(self) -> None:
        self.now, self._read_at = 0.0, time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.now += min(now - self._read_at, MAX_STEP_SECONDS)
        self._read_at = now


class WorkerPool:
    """Starts workers, and keeps their rows until their processes are gone.

    Attributes:
        workers: all that run or are about to, and those that have ended but were not replaced.
        counters: of this process, the template and the workers.
        descriptor: of the counters' memory.
    """

    def __init__(self, settings: Settings, sockets: Sequence[socket.socket]) -> None:
        """Raises OSError if the memory of the counters can't be allocated."""
        self.workers: list[Worker] = []
        self.clock = RunningClock()
        self.descriptor = os.memfd_create("cartpole-metrics")
        self.counters = SharedCounters.for_workers(settings.workers, self.descriptor)
        self.counters.rows[SUPERVISOR_ROW][COLUMNS.pid] = os.getpid()
        self._sockets, self._timeout = sockets, settings.worker_timeout
        self._cores = sorted(os.sched_getaffinity(0)) if settings.pin else [-1]
        if settings.pin and settings.workers > len(self._cores):
            logger.warning("--pin: %d workers share %d cores", settings.workers, len(self._cores))

    def start(self, slot: int, template: Template) -> Worker | None:
        """Start a worker with the socket of this slot. Returns None while no row is free.

        Raises:
            OSError: the template has ended or does not listen, or no descriptor can be had.
        """
        used = {worker.row for worker in self.workers}
        rows = set(range(FIRST_WORKER_ROW, len(self.counters.rows))) - used
        if not rows:
            return None
        row, core = min(rows), self._cores[slot % len(self._cores)]
        cells = self.counters.rows[row]
        worker = Worker(template, self._sockets[slot], row, cells, core, self._timeout)
        self.workers.append(worker)
        return worker

    def observe(self, templates: Sequence[Template]) -> None:
        """Learn how all processes are; kill stopping workers whose time is up."""
        self.clock.tick()
        now, ended = self.clock.now, _ended_processes()
        children: list[Child] = [*templates, *self.workers]
        for child in children:
            child.observe()  # after the list of those that ended: then all their ids are known
            child.status = ended.get(child.pid, child.status)
        for worker in [worker for worker in self.workers if worker.is_stopping]:
            if worker.has_ended:
                self.counters.clear_gauges(worker.row)
                self.workers.remove(worker)
            elif now > worker.deadline:
                logger.error("worker %d did not stop in time and was killed", worker.pid)
                worker.deadline = float("inf")
                worker.kill()
            elif worker.failure(now):
                worker.kill()


def _ended_processes() -> dict[int, int]:
    """The status of each child that has ended since the last call, by its id; of strays too."""
    ended: dict[int, int] = {}
    with suppress(ChildProcessError):  # there is none
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            ended[found[0]] = found[1]
    return ended
