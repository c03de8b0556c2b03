"""Worker processes, and a row of the shared counters for each."""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.context import SpawnProcess
from pathlib import Path

from cartpole.metrics.counters import COLUMNS, SharedCounters
from cartpole.process.resources import pin_to_core
from cartpole.settings import Settings

READY_SECONDS = 60  # a worker that is not ready by then is taken for hung
MAX_STEP_SECONDS = 1  # a longer step of the supervisor counts as this
PARENT_CHECK_SECONDS = 1  # how often a worker looks whether its supervisor is alive

# Serves in a worker's process: settings, its sockets, the file of the counters, its row of them.
Serve = Callable[[Settings, list[socket.socket], Path, int], int]


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


class WorkerProcess:
    """A worker's process, and its row of the shared counters.

    Attributes:
        generation: the number of reloads that had been requested when it was started.
        has_served: it has been ready to serve at some time.
        is_stopping: it was told to stop, or has ended.
        deadline: by then it must be ready, or gone if it is stopping.
    """

    def __init__(
        self, process: SpawnProcess, row: int, cells: memoryview, now: float, generation: int
    ) -> None:
        self.process, self.row, self.cells = process, row, cells
        self.generation = generation
        self.has_served = self.is_stopping = False
        self.deadline = now + READY_SECONDS
        self._heartbeats, self._heartbeat_at = cells[COLUMNS.heartbeats], now

    def poll(self, now: float) -> None:
        """Read its row of the shared counters."""
        self.has_served = self.has_served or bool(self.cells[COLUMNS.ready])
        heartbeats = self.cells[COLUMNS.heartbeats]
        if heartbeats != self._heartbeats or not self.has_served:
            self._heartbeats, self._heartbeat_at = heartbeats, now

    def failure(self, now: float, timeout: int) -> str:
        """How it has failed, as the end of a sentence; "" if it is well.

        Args:
            timeout: seconds without a heartbeat after which it is taken for hung; 0: never.
        """
        if not self.process.is_alive():
            return f"ended {self._exit_reason()}{'' if self.has_served else ' while starting'}"
        if timeout and now - self._heartbeat_at > timeout:
            return f"did not respond for {timeout} s and was killed"
        if now > self.deadline and not self.has_served:
            return f"was not ready after {READY_SECONDS} s and was killed"
        return ""

    def _exit_reason(self) -> str:
        code = self.process.exitcode or 0
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with {code}"

    def send(self, number: int) -> None:
        """Send this signal, if the process is alive."""
        if self.process.is_alive() and self.process.pid:
            os.kill(self.process.pid, number)

    def stop(self, number: int, deadline: float) -> None:
        """Stop it with this signal; the pool kills it after the deadline."""
        self.deadline = min(deadline, self.deadline) if self.is_stopping else deadline
        self.is_stopping = True
        self.send(number)


class WorkerPool:
    """Starts workers, and keeps their rows until their processes are gone.

    Attributes:
        workers: all that run, and those that have ended but not been replaced.
        counters: row 0 is the supervisor's.
    """

    def __init__(self, settings: Settings, sockets: list[socket.socket], serve: Serve) -> None:
        """Raises OSError if the file of the counters can't be created or mapped."""
        self._settings, self._sockets, self._serve = settings, sockets, serve
        self._counters_file = SharedCounters.create_file()
        self.counters = SharedCounters.for_workers(settings.workers, self._counters_file)
        self.counters.rows[0][COLUMNS.pid] = os.getpid()
        self._cores = sorted(os.sched_getaffinity(0)) if settings.pin else []
        self.workers: list[WorkerProcess] = []
        self.clock = RunningClock()

    def start(self, slot: int, generation: int) -> WorkerProcess | None:
        """Start a worker with the socket of this slot. Returns None while no row is free.

        Raises:
            OSError: the system lacks a process, descriptor or memory for it.
        """
        used = {worker.row for worker in self.workers}
        row = next((row for row in range(1, len(self.counters.rows)) if row not in used), None)
        if row is None:
            return None
        core = self._cores[slot % len(self._cores)] if self._cores else None
        arguments = (self._settings, [self._sockets[slot]], self._counters_file, row)
        process = get_context("spawn").Process(
            target=_worker_main, args=(os.getpid(), core, self._serve, *arguments)
        )
        _start(process)
        cells = self.counters.rows[row]
        self.workers.append(WorkerProcess(process, row, cells, self.clock.now, generation))
        return self.workers[-1]

    def kill(self, worker: WorkerProcess) -> None:
        worker.cells[COLUMNS.ready] = 0
        worker.stop(signal.SIGKILL, self.clock.now)

    def poll(self) -> None:
        """Read the counters; kill stopping workers whose time is up; free rows of those gone."""
        self.clock.tick()
        now = self.clock.now
        for worker in tuple(self.workers):
            worker.poll(now)
            if not worker.is_stopping:
                continue
            if not worker.process.is_alive():
                self.counters.clear_gauges(worker.row)
                self.workers.remove(worker)
            elif now > worker.deadline or worker.failure(now, self._settings.worker_timeout):
                worker.send(signal.SIGKILL)


def _start(process: SpawnProcess) -> None:
    try:
        os.getcwd()  # the new process changes to it
    except FileNotFoundError as error:
        raise OSError(error.errno, "the working directory is gone") from error
    process.start()


def _worker_main(
    parent: int,
    core: int | None,
    serve: Serve,
    settings: Settings,
    sockets: list[socket.socket],
    counters_file: Path,
    row: int,
) -> None:
    if core is not None:
        pin_to_core(core)
    threading.Thread(target=_stop_without_parent, args=(parent,), daemon=True).start()
    raise SystemExit(serve(settings, sockets, counters_file, row))


def _stop_without_parent(parent: int) -> None:
    """Stop this process once its supervisor has ended, even if that was killed."""
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
