"""Worker processes and their rows of the shared board. A row is free once its process is gone."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path

from cartpole.metrics.counters import COLUMNS, Board
from cartpole.settings import Settings

READY_SECONDS = 60  # for a worker to be ready in, then it is taken for hung
STEP_SECONDS = 1  # the most that a step of the supervisor counts as

Serve = Callable[[Settings, list[socket.socket], Path, int], int]


class Clock:
    """Seconds that the supervisor was running.

    While it stands still, its workers may too: then nobody's time is up.
    """

    def __init__(self) -> None:
        self.now, self._read = 0.0, time.monotonic()

    def tick(self) -> None:
        now = time.monotonic()
        self.now += min(now - self._read, STEP_SECONDS)
        self._read = now


class WorkerProcess:
    """A process that runs `serve`, and its row of the board.

    Attributes:
        reload: the number of the reload that it was started after.
        served: whether it has ever been ready.
        deadline: when it must be ready, or gone if it is leaving.
        leaving: whether it was told to end, or has ended.
    """

    def __init__(
        self, process: SpawnProcess, row: int, cells: memoryview, now: float, reload: int
    ) -> None:
        self.process, self.row, self.cells, self.reload = process, row, cells, reload
        self.served = self.leaving = False
        self.deadline = now + READY_SECONDS
        self._beats, self._beat_at = cells[COLUMNS.beats], now

    def look(self, now: float) -> None:
        """Read from the board what it says of itself."""
        self.served = self.served or bool(self.cells[COLUMNS.ready])
        beats = self.cells[COLUMNS.beats]
        if beats != self._beats or not self.served:
            self._beats, self._beat_at = beats, now

    def fault(self, now: float, timeout: int) -> str:
        """What is wrong with it, as the end of a sentence; empty while all is well."""
        if not self.process.is_alive():
            return f"ended {self._how()}{'' if self.served else ' while starting'}"
        if timeout and now - self._beat_at > timeout:
            return f"stood still for {timeout} s and was killed"
        if now > self.deadline and not self.served:
            return f"was not ready after {READY_SECONDS} s and was killed"
        return ""

    def _how(self) -> str:
        code = self.process.exitcode or 0
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"

    def send(self, number: int) -> None:
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)

    def leave(self, number: int, deadline: float) -> None:
        """Tell it to end until then."""
        self.deadline = min(deadline, self.deadline) if self.leaving else deadline
        self.leaving = True
        self.send(number)


class Pool:
    """Starts workers, and keeps their rows until their processes are gone.

    Attributes:
        workers: all whose process exists or whose end nobody has looked at.
    """

    def __init__(self, settings: Settings, sockets: list[socket.socket], serve: Serve) -> None:
        """Raises OSError where the file of the metrics can't be made or mapped."""
        self._settings, self._sockets, self._serve = settings, sockets, serve
        self._path = Board.new_file()
        self.board = Board.shared(settings.workers, self._path)  # row 0 is this process's own
        self.board.rows[0][COLUMNS.pid] = os.getpid()
        self._cores = sorted(os.sched_getaffinity(0)) if settings.pin else []
        self.workers: list[WorkerProcess] = []
        self.clock = Clock()

    def start(self, slot: int, reload: int) -> WorkerProcess | None:
        """A new worker with the socket of this slot; None while no row is free.

        Raises:
            OSError: the system has no process, descriptor or memory for it.
        """
        taken = {worker.row for worker in self.workers}
        row = next((row for row in range(1, len(self.board.rows)) if row not in taken), None)
        if row is None:
            return None
        cpu = self._cores[slot % len(self._cores)] if self._cores else None
        arguments = (self._settings, [self._sockets[slot]], self._path, row)
        process = get_context("spawn").Process(
            target=_run, args=(os.getpid(), cpu, self._serve, *arguments)
        )
        _start(process)
        cells = self.board.rows[row]
        self.workers.append(WorkerProcess(process, row, cells, self.clock.now, reload))
        return self.workers[-1]

    def kill(self, worker: WorkerProcess) -> None:
        worker.cells[COLUMNS.ready] = 0
        worker.leave(signal.SIGKILL, self.clock.now)

    def look(self) -> None:
        """Read the board; kill the workers that should be gone, free the rows of those that are."""
        self.clock.tick()
        now = self.clock.now
        for worker in tuple(self.workers):
            worker.look(now)
            if not worker.leaving:
                continue
            if not worker.process.is_alive():
                self.board.clear_gauges(worker.row)
                self.workers.remove(worker)
            elif now > worker.deadline or worker.fault(now, self._settings.worker_timeout):
                worker.send(signal.SIGKILL)


def _start(process: SpawnProcess) -> None:
    try:
        os.getcwd()  # the new process is to start there
    except FileNotFoundError as error:
        raise OSError(error.errno, "the working directory is gone") from error
    process.start()


def _run(
    parent: int,
    cpu: int | None,
    serve: Serve,
    settings: Settings,
    sockets: list[socket.socket],
    board: Path,
    row: int,
) -> None:
    """What the worker's process does."""
    if cpu is not None:
        os.sched_setaffinity(0, {cpu})
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    raise SystemExit(serve(settings, sockets, board, row))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)
