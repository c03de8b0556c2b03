"""`--workers N`: a supervisor over N processes, each with a listening socket of its own.

The sockets stay open here: who replaces a worker takes over what was accepted for the one before.
"""

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import resource_tracker
from pathlib import Path

import uvicorn
from uvicorn.supervisors.multiprocess import Multiprocess, Process

from cartpole import signals
from cartpole.metrics import COLUMNS, Board
from cartpole.settings import Settings

EXIT_START = uvicorn.config.STARTUP_FAILURE
READY_SECONDS = 60  # for a worker to be ready in, then it is taken for hung
GRACE_SECONDS = 5  # beyond what the settings give a worker to stop in
BACKOFF_SECONDS = (1, 2, 5, 10, 30)  # between starts of a worker that can't start
POLL_SECONDS = 0.1

logger = logging.getLogger("cartpole")

Serve = Callable[[Settings, list[socket.socket], Path, int], int]


class WorkerProcess(Process):
    """A process that runs `serve` with one socket.

    Attributes:
        row: of the board, for its numbers.
        deadline: until when it must be ready, or have ended once it was told to.
    """

    def __init__(
        self, supervisor: "Supervisor", listener: socket.socket, row: int, cpu: int | None
    ) -> None:
        self.row, self._cpu, self.deadline = row, cpu, time.monotonic() + READY_SECONDS
        self._settings, self._board = supervisor.settings, supervisor.board_path
        self._parent, self._serve = os.getpid(), supervisor.serve
        super().__init__(supervisor.config, [listener])

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """In the worker."""
        if self._cpu is not None:
            os.sched_setaffinity(0, {self._cpu})
        threading.Thread(target=self._end_with_parent, daemon=True).start()
        raise SystemExit(self._serve(self._settings, sockets or [], self._board, self.row))

    def _end_with_parent(self) -> None:
        while os.getppid() == self._parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    def alive(self) -> bool:
        return self.process.is_alive()

    def send(self, number: int) -> None:
        if self.alive() and self.pid:
            os.kill(self.pid, number)

    def how_it_ended(self) -> str:
        if self.exitcode and self.exitcode < 0:
            return f"by {signal.Signals(-self.exitcode).name}"
        return f"with {self.exitcode}"


class Supervisor(Multiprocess):
    """Starts, watches, replaces and stops the workers, in steps that never wait.

    Attributes:
        exit_code: of the whole, once run() has returned.
    """

    def __init__(self, settings: Settings, sockets: list[socket.socket], serve: Serve) -> None:
        """Raises OSError where the file of the metrics can't be made or mapped."""
        self.settings, self.serve, self.exit_code = settings, serve, 0
        self.board_path = Board.new_file()
        # Row 0 is this process's own; while a worker is replaced, both have one.
        self.board = Board.shared(settings.workers, self.board_path)
        self._own = self.board.rows[0]
        self._own[COLUMNS.pid] = os.getpid()
        self._cores = sorted(os.sched_getaffinity(0)) if settings.pin else []
        self._slots: list[WorkerProcess | None] = [None] * settings.workers
        self._failed = [0] * settings.workers  # starts, one after the other
        self._start_at = [0.0] + [float("inf")] * (settings.workers - 1)
        self._served = False  # any worker, ever
        self._to_replace: list[int] = []  # slots, after SIGHUP
        self._successor: tuple[int, WorkerProcess] | None = None
        self._retired: list[WorkerProcess] = []
        self._ended_by: int = signal.SIGTERM
        super().__init__(uvicorn.Config("", workers=settings.workers, log_config=None), sockets)

    def run(self) -> None:
        signals.handle(self.signal_queue.append)
        resource_tracker.ensure_running()
        signals.block()  # again: the resource tracker's start has unblocked some
        try:
            while not self.should_exit.is_set():
                self.handle_signals()
                self._watch()
                self._replace()
                time.sleep(POLL_SECONDS)
            self._stop()
        finally:
            for process in self._all():
                process.process.kill()

    def _all(self) -> list[WorkerProcess]:
        successor = [self._successor[1]] if self._successor else []
        return [*filter(None, self._slots), *successor, *self._retired]

    def _start(self, slot: int) -> WorkerProcess:
        taken = {process.row for process in self._all()}
        row = next(row for row in range(1, len(self.board.rows)) if row not in taken)
        cpu = self._cores[slot % len(self._cores)] if self._cores else None
        process = WorkerProcess(self, self.sockets[slot], row, cpu)
        process.start()
        return process

    def _ready(self, process: WorkerProcess) -> bool:
        return bool(self.board.rows[process.row][COLUMNS.ready])

    def _ended(self, process: WorkerProcess) -> None:
        process.process.join()
        self.board.clear_gauges(process.row)

    def _watch(self) -> None:
        """Fill the slots: the first worker alone, so that what can't start says so once."""
        now = time.monotonic()
        for slot, process in enumerate(self._slots):
            if process is None:
                self._fill(slot, now)
            elif not process.alive():
                self._died(slot, process, now)
            elif self._ready(process):
                self._failed[slot] = 0
                if not self._served:
                    self._served = True
                    self._start_at = [0.0] * len(self._slots)
            elif now > process.deadline:
                process.process.kill()

    def _fill(self, slot: int, now: float) -> None:
        if now >= self._start_at[slot] and not self.should_exit.is_set():
            self._slots[slot] = self._start(slot)

    def _died(self, slot: int, process: WorkerProcess, now: float) -> None:
        served = self._ready(process)
        self._ended(process)
        self._slots[slot] = None
        if self.should_exit.is_set():
            return  # as it was told
        if not self._served:  # nor will the next
            self.exit_code = EXIT_START
            self.should_exit.set()
            return
        wait = 0
        if not served:
            wait = BACKOFF_SECONDS[min(self._failed[slot], len(BACKOFF_SECONDS) - 1)]
            self._failed[slot] += 1
            self._stop_listening(slot)
        self._start_at[slot] = now + wait
        self._own[COLUMNS.restarts] += 1
        again = f"again in {wait} s" if wait else "replaced"
        logger.error("worker %s ended %s: %s", process.pid, process.how_it_ended(), again)

    def _stop_listening(self, slot: int) -> None:
        """Nobody will accept here for a while: until the next start, others get the connections."""
        listener = self.sockets[slot]
        if self.sockets.count(listener) == 1:
            with suppress(OSError):  # it did not listen
                listener.shutdown(socket.SHUT_RDWR)

    def handle_hup(self) -> None:
        """Replace the workers one by one, each once its successor is ready."""
        logger.info("reload: replacing %d workers", len(self._slots))
        self._to_replace = list(range(len(self._slots)))

    def _replace(self) -> None:
        for process in [*self._retired]:
            if not process.alive():
                self._ended(process)
                self._retired.remove(process)
            elif time.monotonic() > process.deadline:
                process.process.kill()
        if self._successor:
            self._await(*self._successor)
        elif self._to_replace and all(process and self._ready(process) for process in self._slots):
            slot = self._to_replace.pop(0)
            self._successor = slot, self._start(slot)

    def _await(self, slot: int, successor: WorkerProcess) -> None:
        if not successor.alive() or time.monotonic() > successor.deadline:
            successor.process.kill()
            self._ended(successor)
            self._successor, self._to_replace = None, []
            logger.error("reload refused, the workers from before serve on")
        elif self._ready(successor):
            old, self._slots[slot], self._successor = self._slots[slot], successor, None
            if old:
                old.send(signal.SIGUSR1)  # leave without a drain: the successor is there
                old.deadline = time.monotonic() + self.settings.shutdown_timeout + GRACE_SECONDS
                self._retired.append(old)
            if not self._to_replace:
                logger.info("reload: done")

    def _stop(self) -> None:
        """Until all have ended; a second signal to stop goes to them too."""
        for listener in self.sockets:  # so that the workers' own are the last
            listener.close()
        seconds = self.settings.drain_seconds + self.settings.shutdown_timeout + GRACE_SECONDS
        deadline = time.monotonic() + seconds
        number: int = self._ended_by
        while any(process.alive() for process in self._all()) and time.monotonic() < deadline:
            for process in self._all() if number in signals.STOPPING else []:
                process.send(number)
            time.sleep(POLL_SECONDS)
            number = self.signal_queue.pop(0) if self.signal_queue else 0
            if number in signals.STOPPING:
                number = signal.SIGINT  # a second SIGTERM could become one with the first

    def handle_signals(self) -> None:
        """What comes after a signal to stop is for _stop."""
        while self.signal_queue and not self.should_exit.is_set():
            number = self.signal_queue.pop(0)
            if number == signal.SIGHUP:
                self.handle_hup()
            elif number in signals.STOPPING:
                self._ended_by = number
                self.should_exit.set()
