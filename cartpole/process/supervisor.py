"""`--workers N`: a supervisor of N processes, each with a listening socket of its own.

The supervisor keeps the sockets open, so a worker inherits its predecessor's pending connections.
"""

import logging
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from cartpole import logs
from cartpole.metrics.counters import COLUMNS, SUPERVISOR_ROW, TEMPLATE_ROW
from cartpole.process import signals
from cartpole.process.children import PREPARE, Copies, Template, Worker
from cartpole.process.exit_codes import EXIT_OK, EXIT_START
from cartpole.process.parent import adopt_orphans
from cartpole.process.sockets import start_line
from cartpole.process.templates import Backoff, Templates
from cartpole.process.worker_pool import WorkerPool
from cartpole.settings import Settings

GRACE_SECONDS = 5  # for a worker to stop, on top of the drain and the shutdown time-out
HURRY_SECONDS = 1  # the same after a second signal, and for one that does not serve yet
STEP_SECONDS = 0.05
ERROR_SECONDS = 1  # before the next step, if one has raised

logger = logging.getLogger("cartpole")


class Slot:
    """One of the N places for a worker.

    Attributes:
        worker: has served; None while there is none.
        next: starts, to take its place.
    """

    def __init__(self, number: int) -> None:
        self.number, self.backoff = number, Backoff()
        self.worker: Worker | None = None
        self.next: Worker | None = None


class Supervisor:
    """Starts, watches, replaces and stops the workers, in steps that never block.

    Attributes:
        signal_queue: signals that this process has received; the next step handles them.
        exit_code: of the command, once `is_finished`.
        pool: the workers.
        templates: what they are forked from.
    """

    def __init__(
        self,
        settings: Settings,
        flags: Sequence[str],
        sockets: list[socket.socket],
        prepare: str = PREPARE,
    ) -> None:
        """Start nothing yet.

        Args:
            flags: of the command, from which the settings were read.
            sockets: one for each worker.
            prepare: the module that templates load by.

        Raises:
            OSError: the memory of the counters can't be allocated.
        """
        self.signal_queue: deque[int] = deque()
        self.exit_code = EXIT_OK
        self.pool = WorkerPool(settings, sockets)
        self.templates = Templates(prepare, flags, self.pool.descriptor)
        self._settings, self._sockets = settings, sockets
        self._slots = [Slot(number) for number in range(settings.workers)]
        self._policy: Copies | None = None  # that all workers serve, or shall serve
        self._has_served = self._all_serve = self._is_reloading = self._is_stopping = False

    def supervise(self) -> int:
        """Run until told to stop. Returns the exit code."""
        adopt_orphans()
        signals.deliver_to(self.signal_queue.append)
        try:
            while not self.is_finished:
                time.sleep(STEP_SECONDS if self.step() else ERROR_SECONDS)
        finally:
            for child in (*self.templates.all, *self.pool.workers):
                child.kill()
        return self.exit_code

    @property
    def is_finished(self) -> bool:
        return self._is_stopping and not self.pool.workers

    def step(self) -> bool:
        """Do all that is due. Returns whether that worked.

        An error in one task is logged, and the others go on.
        """
        tasks: list[Callable[[], object]] = [logs.flush, self._observe, self._handle_signals]
        if not self._is_stopping:
            slots = (partial(self._check_slot, slot) for slot in self._slots)
            tasks += [self._check_request_limit, self._check_policy, *slots, self._report]
        succeeded = True
        for task in tasks:
            try:
                task()
            except Exception:
                logger.exception("the supervisor failed; retrying in %d s", ERROR_SECONDS)
                succeeded = False
        return succeeded

    def _observe(self) -> None:
        self.pool.observe(self.templates.all)

    def _handle_signals(self) -> None:
        while self.signal_queue:
            number = self.signal_queue.popleft()
            if number in signals.STOP_SIGNALS:
                self._stop(number)
            elif number == signal.SIGHUP:
                self.templates.request()
                for slot in self._slots:
                    slot.backoff.reset()

    def _check_policy(self) -> None:
        self.templates.step(self.pool.clock.now)
        current = self.templates.current
        self.pool.counters.rows[TEMPLATE_ROW][COLUMNS.pid] = current.pid if current else 0
        if self.templates.is_refused:
            self.exit_code = EXIT_START
            self._stop(signal.SIGTERM)
        elif self._policy is not self.templates.accepted:
            if self._policy:
                self._is_reloading = True
                logger.info("reload: replacing %d workers", len(self._slots))
            self._policy = self.templates.accepted

    # Each worker

    def _check_slot(self, slot: Slot) -> None:
        """Replace the worker if it fails or serves an earlier policy, when another can serve."""
        now = self.pool.clock.now
        if self._is_stopping:
            return
        if slot.worker and (failure := slot.worker.failure(now)):
            self._end(slot.worker, failure, "replacing it")
            slot.worker = None
        if slot.next and slot.next.copies is not self._policy:
            self._kill(slot.next)  # a reload came meanwhile
            slot.next = None
        elif slot.next and slot.next.serves:
            self._promote(slot, slot.next)
        elif slot.next and (failure := slot.next.failure(now)):
            self._give_up(slot, slot.next, failure)
        if slot.worker:  # one by one
            is_old = slot.worker.copies is not self._policy
            may_start = is_old and not any(each.next for each in self._slots)
        else:  # The first worker starts alone, so that an error common to all is logged once.
            may_start = not slot.next and (self._has_served or slot.number == 0)
        is_due = may_start and slot.backoff.is_due(now) and not self._is_stopping
        if is_due and self.templates.current:
            self._start(slot, self.templates.current)

    def _start(self, slot: Slot, template: Template) -> None:
        try:
            slot.next = self.pool.start(slot.number, template)
        except OSError as error:
            wait = self._back_off(slot)
            logger.error("can't start a worker: %s; retrying in %d s", error.strerror, wait)

    def _promote(self, slot: Slot, worker: Worker) -> None:
        """Let it take its place. Its predecessor need not drain."""
        if slot.worker:
            slot.worker.cells[COLUMNS.ready] = 0
            seconds = self._settings.shutdown_timeout + GRACE_SECONDS
            slot.worker.order(signal.SIGUSR1, self.pool.clock.now + seconds)
        slot.worker, slot.next = worker, None
        slot.backoff.reset()
        if not self._has_served:
            line = start_line(self._settings, self._sockets[0], self.templates.policy)
            logger.info("%s", line)
        self._has_served = True

    def _give_up(self, slot: Slot, worker: Worker, failure: str) -> None:
        slot.next = None
        if worker.has_ended and worker.exit_code == EXIT_START and not self._has_served:
            self.exit_code = EXIT_START  # the next would fail too, and this one has logged why
            return self._stop(signal.SIGTERM)
        if not worker.pid and not worker.has_ended and self.templates.current:
            self.templates.current.kill()  # it was to fork that worker, and is stuck
        wait = self._back_off(slot)
        self._end(worker, f"{failure} while starting", f"retrying in {wait} s")

    def _end(self, worker: Worker, failure: str, reaction: str) -> None:
        self._kill(worker)
        self.pool.counters.rows[SUPERVISOR_ROW][COLUMNS.restarts] += 1
        logger.error("%s %s; %s", f"worker {worker.pid or ''}".rstrip(), failure, reaction)

    def _kill(self, worker: Worker) -> None:
        worker.cells[COLUMNS.ready] = 0
        worker.is_stopping = True
        worker.kill()

    def _back_off(self, slot: Slot) -> int:
        """Delay the next start. Returns the delay in seconds."""
        listener = self._sockets[slot.number]
        is_listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        is_again = slot.backoff.has_failed  # the first time, connections wait for the next start
        if is_again and not slot.worker and self._sockets.count(listener) == 1 and is_listening:
            # Stop listening, so that the kernel gives new connections to the other workers. Of a
            # socket that does not listen, this would end each connection that it ever accepts.
            listener.shutdown(socket.SHUT_RDWR)
        return slot.backoff.fail(self.pool.clock.now)

    def _report(self) -> None:
        workers = [slot.worker for slot in self._slots]
        if all(workers) and not self._all_serve:
            logger.info("%d of %d workers serve", len(workers), len(workers))
        self._all_serve = all(workers)
        are_new = all(worker.copies is self._policy for worker in self.pool.workers)
        if self._is_reloading and all(workers) and are_new:  # the old ones have ended
            self._is_reloading = False
            logger.info("reload: done")

    # The end

    def _check_request_limit(self) -> None:
        limit = self._settings.limit_requests
        if limit and self.pool.counters.limit_reached(limit):
            self._stop(signal.SIGUSR1)

    def _stop(self, number: int) -> None:
        """Stop all workers as this signal says; at once if they are stopping already."""
        settings = self._settings
        seconds = settings.drain_seconds + settings.shutdown_timeout + GRACE_SECONDS
        if self._is_stopping:
            number, seconds = signal.SIGINT, HURRY_SECONDS
        self._is_stopping = True
        for listener in self._sockets:  # the workers close the last copies
            listener.close()
        for worker in self.pool.workers:
            worker.order(
                number, self.pool.clock.now + (seconds if worker.serves else HURRY_SECONDS)
            )
