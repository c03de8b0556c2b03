"""`--workers N`: a supervisor over N processes, each with a listening socket of its own.

The sockets stay open here: who replaces a worker takes over what was accepted for the one before.
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
from cartpole.process.worker_pool import Pool, Serve, WorkerProcess
from cartpole.settings import Settings

EXIT_START = 3  # of a worker that can't serve with these settings
START_GRACE_SECONDS = 1  # for a worker to stop in that has not served yet
GRACE_SECONDS = 5  # beyond what the settings give a worker to stop in
BACKOFF_SECONDS = (1, 2, 5, 10, 30)  # between starts of a worker that can't start
POLL_SECONDS = 0.1
FAULT_SECONDS = 1  # between steps of the supervisor, after one that failed

logger = logging.getLogger("cartpole")


@dataclass
class Slot:
    """One of the N places, with its socket.

    Attributes:
        failed: starts that failed, one after the other.
        start_at: when the next is due.
    """

    number: int
    worker: WorkerProcess | None = None
    failed: int = 0
    start_at: float = 0.0


class Supervisor:
    """Starts, watches, replaces and stops the workers, in steps that never wait.

    uvicorn's own supervisor waits while it replaces a worker, and its ping is answered by a thread,
    also where the event loop hangs. Here each worker counts its seconds on the shared board.

    Attributes:
        signal_queue: signals that this process has been sent; the next step acts on them.
        exit_code: of the whole, once run() has returned.
    """

    def __init__(self, settings: Settings, sockets: list[socket.socket], serve: Serve) -> None:
        """Raises OSError where the file of the metrics can't be made or mapped."""
        self.signal_queue: deque[int] = deque()
        self.exit_code = 0
        self.pool = Pool(settings, sockets, serve)
        self._settings, self._sockets = settings, sockets
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._successor = Slot(0)  # of one of them, while workers are replaced
        self._reloads, self._reloading = 0, False
        self._has_served = self._stopping = False

    def run(self) -> None:
        signals.handle(self.signal_queue.append)
        resource_tracker.ensure_running()
        signals.block()  # again: the resource tracker's start has unblocked some
        try:
            while not self.ended():
                time.sleep(POLL_SECONDS if self.step() else FAULT_SECONDS)
        finally:
            for worker in self.pool.workers:
                worker.send(signal.SIGKILL)

    def ended(self) -> bool:
        return self._stopping and not self.pool.workers

    def step(self) -> bool:
        """Look after everything once. A part that fails is logged, and does not stop the others."""
        parts: list[Callable[[], None]] = [self.pool.look, self._handle_signals, self._check_limit]
        parts += [partial(self._look_after, slot) for slot in self._slots]
        parts += [self._reload]
        fine = True
        for part in parts:
            try:
                part()
            except Exception:
                logger.exception("the supervisor failed: again in %d s", FAULT_SECONDS)
                fine = False
        return fine

    def _handle_signals(self) -> None:
        while self.signal_queue:
            number = self.signal_queue.popleft()
            if number in signals.STOPPING:
                self._stop(number)
            elif number == signal.SIGHUP and not self._stopping:
                self._ask_to_reload()

    # Each worker

    def _look_after(self, slot: Slot) -> None:
        if self._stopping:
            return
        if slot.worker is None:
            # The first worker alone, so that what can't start says so once.
            if self._has_served or slot.number == 0:
                self._start(slot)
        elif fault := slot.worker.fault(self.pool.clock.now, self._settings.worker_timeout):
            self._lose(slot, slot.worker, fault)
        elif slot.worker.served:
            slot.failed, self._has_served = 0, True

    def _start(self, slot: Slot) -> None:
        if self.pool.clock.now < slot.start_at:
            return
        try:
            slot.worker = self.pool.start(slot.number, self._reloads)
        except Exception as error:  # whatever it is, the others serve on
            wait = self._back_off(slot)
            reason = error.strerror if isinstance(error, OSError) else error
            logger.error("can't start a worker: %s: again in %d s", reason, wait,
                         exc_info=not isinstance(error, OSError))  # fmt: skip

    def _lose(self, slot: Slot, worker: WorkerProcess, fault: str) -> None:
        slot.worker = None
        self.pool.kill(worker)
        if worker.process.exitcode == EXIT_START and not self._has_served:  # nor will the next
            self.exit_code = EXIT_START
            return self._stop(signal.SIGTERM)
        self.pool.board.rows[0][COLUMNS.restarts] += 1
        wait = 0 if worker.served else self._back_off(slot)
        again = f"again in {wait} s" if wait else "replaced"
        logger.error("worker %s %s: %s", worker.process.pid, fault, again)

    def _back_off(self, slot: Slot) -> int:
        """Seconds until the next start. Until then, the other workers get the connections."""
        wait = BACKOFF_SECONDS[min(slot.failed, len(BACKOFF_SECONDS) - 1)]
        slot.failed += 1
        slot.start_at = self.pool.clock.now + wait
        listener = self._sockets[slot.number]
        if slot is not self._successor and self._sockets.count(listener) == 1:
            with suppress(OSError):  # it did not listen
                listener.shutdown(socket.SHUT_RDWR)
        return wait

    # SIGHUP

    def _ask_to_reload(self) -> None:
        """Replace all workers. Those that are starting may have read the file of before."""
        logger.info("reload: replacing %d workers", len(self._slots))
        self._reloads += 1
        self._reloading = True
        for slot in (*self._slots, self._successor):
            slot.failed, slot.start_at = 0, 0.0
            if slot.worker and not slot.worker.served:
                self.pool.kill(slot.worker)
                slot.worker = None

    def _reload(self) -> None:
        """Replace the workers one by one, each once its successor is ready."""
        if self._stopping or not self._reloading:
            return
        if self._successor.worker:
            return self._await(self._successor.worker)
        workers = [slot.worker for slot in self._slots]
        for slot, worker in zip(self._slots, workers, strict=True):
            if worker and worker.served and worker.reload < self._reloads:
                self._successor.number = slot.number
                return self._start(self._successor)
        if all(worker and worker.served for worker in workers):
            self._reloading = False
            logger.info("reload: done")

    def _await(self, successor: WorkerProcess) -> None:
        if fault := successor.fault(self.pool.clock.now, self._settings.worker_timeout):
            self._lose_successor(successor, fault)
        elif successor.served:
            slot = self._slots[self._successor.number]
            old, slot.worker = slot.worker, successor
            self._successor.worker, self._successor.failed = None, 0
            if old:
                self._retire(old)

    def _lose_successor(self, successor: WorkerProcess, fault: str) -> None:
        """The workers from before serve on. A killed successor, unlike a bad file, has another."""
        pid, code = successor.process.pid, successor.process.exitcode or 0
        self.pool.kill(successor)
        self._successor.worker = None
        if code < 0:  # by a signal, and not one of ours
            wait = self._back_off(self._successor)
            logger.error("reload: worker %s %s: again in %d s", pid, fault, wait)
        else:
            self._reloading = False
            refused = "reload refused, the workers from before serve on"
            logger.error("%s: worker %s %s", refused, pid, fault)

    def _retire(self, worker: WorkerProcess) -> None:
        """It need not drain: another has taken over."""
        seconds = self._settings.shutdown_timeout + GRACE_SECONDS if worker.served else 0
        worker.leave(signal.SIGUSR1, self.pool.clock.now + seconds)
        worker.cells[COLUMNS.ready] = 0

    # The end

    def _check_limit(self) -> None:
        limit = self._settings.limit_requests
        if limit and not self._stopping and self.pool.board.reached(limit):
            self._stop(signal.SIGUSR1)

    def _stop(self, number: int) -> None:
        """End all workers: as the signal says; at once if it is not the first."""
        now, settings = self.pool.clock.now, self._settings
        seconds = settings.drain_seconds + settings.shutdown_timeout + GRACE_SECONDS
        if self._stopping:
            # The same signal again could melt into the first, where a worker has not seen that yet.
            number, seconds = signal.SIGINT, GRACE_SECONDS
        self._stopping = True
        for listener in self._sockets:  # so that the workers' own are the last
            listener.close()
        for worker in self.pool.workers:
            worker.leave(number, now + (seconds if worker.served else START_GRACE_SECONDS))
