"""`--workers N`: a supervisor of N processes, each with a listening socket of its own.

The supervisor keeps the sockets open, so a worker inherits its predecessor's pending connections.
"""

import logging
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker

from cartpole.metrics.counters import COLUMNS
from cartpole.process import signals
from cartpole.process.exit_codes import EXIT_OK, EXIT_START
from cartpole.process.worker_pool import Serve, WorkerPool, WorkerProcess
from cartpole.settings import Settings

GRACE_SECONDS = 5  # for a worker to stop, on top of the drain and the shutdown time-out
START_GRACE_SECONDS = 1  # the same for a worker that is not ready yet
BACKOFF_SECONDS = (1, 2, 5, 10, 30)  # before the next start, by the number of failures in a row
POLL_SECONDS = 0.1
ERROR_SECONDS = 1  # before the next step, if one has raised

logger = logging.getLogger("cartpole")


@dataclass
class Slot:
    """One of the N places for a worker, with its socket.

    Attributes:
        failed_starts: how many have failed in a row.
        start_at: when the next is due.
    """

    number: int
    worker: WorkerProcess | None = None
    failed_starts: int = 0
    start_at: float = 0.0

    def reset(self) -> None:
        """Forget failures: the next start is due at once."""
        self.failed_starts, self.start_at = 0, 0.0


class Supervisor:
    """Starts, watches, replaces and stops the workers, in steps that never block.

    uvicorn's own supervisor blocks while it replaces a worker, and a thread of the worker answers
    its pings even if the event loop hangs. Here the event loop itself counts heartbeats.

    Attributes:
        signal_queue: signals that this process has received; the next step handles them.
        exit_code: of the command, once `is_finished`.
    """

    def __init__(self, settings: Settings, sockets: list[socket.socket], serve: Serve) -> None:
        """Raises OSError if the file of the counters can't be created or mapped."""
        self.signal_queue: deque[int] = deque()
        self.exit_code = EXIT_OK
        self.pool = WorkerPool(settings, sockets, serve)
        self._settings, self._sockets = settings, sockets
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._successor = Slot(0)  # takes over the slot of its number, during a reload
        self._generation, self._is_reloading = 0, False
        self._has_served = self._is_stopping = False

    def supervise(self) -> int:
        """Run until told to stop. Returns the exit code."""
        signals.deliver_to(self.signal_queue.append)
        resource_tracker.ensure_running()
        signals.block_signals()  # again: the start of the resource tracker unblocks some
        try:
            while not self.is_finished:
                time.sleep(POLL_SECONDS if self.step() else ERROR_SECONDS)
        finally:
            for worker in self.pool.workers:
                worker.send(signal.SIGKILL)
        return self.exit_code

    @property
    def is_finished(self) -> bool:
        return self._is_stopping and not self.pool.workers

    def step(self) -> bool:
        """Do all that is due. Returns whether that worked.

        An error in one task is logged, and the others go on.
        """
        tasks: list[Callable[[], None]] = [
            self.pool.poll,
            self._handle_signals,
            self._check_request_limit,
            *(partial(self._check_slot, slot) for slot in self._slots),
            self._continue_reload,
        ]
        succeeded = True
        for task in tasks:
            try:
                task()
            except Exception:
                logger.exception("the supervisor failed; retrying in %d s", ERROR_SECONDS)
                succeeded = False
        return succeeded

    def _handle_signals(self) -> None:
        while self.signal_queue:
            number = self.signal_queue.popleft()
            if number in signals.STOP_SIGNALS:
                self._stop(number)
            elif number == signal.SIGHUP and not self._is_stopping:
                self._request_reload()

    # Each worker

    def _check_slot(self, slot: Slot) -> None:
        if self._is_stopping:
            return
        if slot.worker is None:
            # The first worker starts alone, so that an error common to all is logged once.
            if self._has_served or slot.number == 0:
                self._start(slot)
        elif failure := self._failure(slot.worker):
            self._replace(slot, slot.worker, failure)
        elif slot.worker.has_served:
            slot.failed_starts, self._has_served = 0, True

    def _failure(self, worker: WorkerProcess) -> str:
        return worker.failure(self.pool.clock.now, self._settings.worker_timeout)

    def _start(self, slot: Slot) -> None:
        if self.pool.clock.now < slot.start_at:
            return
        try:
            slot.worker = self.pool.start(slot.number, self._generation)
        except Exception as error:  # no error of one start may end the service
            wait = self._back_off(slot)
            reason = error.strerror if isinstance(error, OSError) else error
            logger.error("can't start a worker: %s; retrying in %d s", reason, wait,
                         exc_info=not isinstance(error, OSError))  # fmt: skip

    def _replace(self, slot: Slot, worker: WorkerProcess, failure: str) -> None:
        """Kill a worker that has failed. A later step starts another in its slot."""
        slot.worker = None
        self.pool.kill(worker)
        if worker.process.exitcode == EXIT_START and not self._has_served:
            self.exit_code = EXIT_START  # the next would fail too, and this one has logged why
            return self._stop(signal.SIGTERM)
        self.pool.counters.rows[0][COLUMNS.restarts] += 1
        wait = 0 if worker.has_served else self._back_off(slot)
        reaction = f"retrying in {wait} s" if wait else "replacing it"
        logger.error("worker %s %s; %s", worker.process.pid, failure, reaction)

    def _back_off(self, slot: Slot) -> int:
        """Delay the next start. Returns the delay in seconds."""
        wait = BACKOFF_SECONDS[min(slot.failed_starts, len(BACKOFF_SECONDS) - 1)]
        slot.failed_starts += 1
        slot.start_at = self.pool.clock.now + wait
        listener = self._sockets[slot.number]
        if slot is not self._successor and self._sockets.count(listener) == 1:
            # Stop listening, so that the kernel gives new connections to the other workers.
            with suppress(OSError):  # it was not listening
                listener.shutdown(socket.SHUT_RDWR)
        return wait

    # SIGHUP

    def _request_reload(self) -> None:
        """Replace all workers. Those that are starting may have read the old model file."""
        logger.info("reload: replacing %d workers", len(self._slots))
        self._generation += 1
        self._is_reloading = True
        for slot in (*self._slots, self._successor):
            slot.reset()
            if slot.worker and not slot.worker.has_served:
                self.pool.kill(slot.worker)
                slot.worker = None

    def _continue_reload(self) -> None:
        """Replace the workers one by one, each when its successor is ready."""
        if self._is_stopping or not self._is_reloading:
            return
        if self._successor.worker:
            return self._check_successor(self._successor.worker)
        workers = [slot.worker for slot in self._slots]
        for slot, worker in zip(self._slots, workers, strict=True):
            if worker and worker.has_served and worker.generation < self._generation:
                self._successor.number = slot.number
                return self._start(self._successor)
        if all(worker and worker.has_served for worker in workers):
            self._is_reloading = False
            logger.info("reload: done")

    def _check_successor(self, successor: WorkerProcess) -> None:
        if failure := self._failure(successor):
            self._handle_failed_successor(successor, failure)
        elif successor.has_served:
            slot = self._slots[self._successor.number]
            predecessor, slot.worker = slot.worker, successor
            self._successor.worker, self._successor.failed_starts = None, 0
            if predecessor:
                self._retire(predecessor)

    def _handle_failed_successor(self, successor: WorkerProcess, failure: str) -> None:
        """Try again if it was killed. Otherwise the model file is bad: end the reload."""
        pid, code = successor.process.pid, successor.process.exitcode or 0
        self.pool.kill(successor)
        self._successor.worker = None
        if code < 0:  # killed, and not by this supervisor
            wait = self._back_off(self._successor)
            logger.error("reload: worker %s %s; retrying in %d s", pid, failure, wait)
        else:
            self._is_reloading = False
            rejected = "reload rejected, the previous workers keep serving"
            logger.error("%s: worker %s %s", rejected, pid, failure)

    def _retire(self, worker: WorkerProcess) -> None:
        """Stop a worker whose successor serves. It need not drain."""
        seconds = self._settings.shutdown_timeout + GRACE_SECONDS if worker.has_served else 0
        worker.stop(signal.SIGUSR1, self.pool.clock.now + seconds)
        worker.cells[COLUMNS.ready] = 0

    # The end

    def _check_request_limit(self) -> None:
        limit = self._settings.limit_requests
        if limit and not self._is_stopping and self.pool.counters.limit_reached(limit):
            self._stop(signal.SIGUSR1)

    def _stop(self, number: int) -> None:
        """Stop all workers as this signal says; at once if they are stopping already."""
        now, settings = self.pool.clock.now, self._settings
        seconds = settings.drain_seconds + settings.shutdown_timeout + GRACE_SECONDS
        if self._is_stopping:
            # SIGINT, because a pending signal absorbs another of the same number.
            number, seconds = signal.SIGINT, GRACE_SECONDS
        self._is_stopping = True
        for listener in self._sockets:  # the workers close the last copies
            listener.close()
        for worker in self.pool.workers:
            worker.stop(number, now + (seconds if worker.has_served else START_GRACE_SECONDS))
