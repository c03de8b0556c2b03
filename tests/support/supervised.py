"""A supervisor whose steps a test takes, over stub workers."""

import os
import signal
import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cartpole.metrics.counters import COLUMNS
from cartpole.process.supervisor import Supervisor
from cartpole.settings import Settings
from tests.support.stub_worker import serve

PATIENCE_SECONDS = 30


class Service:
    """A supervisor whose steps and clock the test controls."""

    def __init__(
        self,
        folder: Path,
        log: pytest.LogCaptureFixture,
        orders: str,
        workers: int,
        **settings: Any,
    ) -> None:
        self.log = log
        self.model, self.signals = folder / "model", folder / "signals"
        self.order(orders)
        self.sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
        chosen = Settings(model=self.model, workers=workers, **settings)
        self.supervisor = Supervisor(chosen, self.sockets, serve)
        self.pool = self.supervisor.pool
        self.pool.clock.tick = lambda: None  # type: ignore[method-assign]  # let_pass does it

    def order(self, orders: str) -> None:
        """Set the orders of workers that start from now on."""
        new = self.model.with_name("new")
        new.write_text(orders)
        new.replace(self.model)

    def order_to_hang(self) -> None:
        self.model.unlink()
        os.mkfifo(self.model)

    def until(self, condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline
            self.supervisor.step()
            time.sleep(0.01)

    def until_logged(self, end: str, number: int = 1) -> None:
        """Step until this number of log lines have this end."""
        self.until(lambda: sum(line.endswith(end) for line in self.log.messages) == number)

    def start(self) -> set[int]:
        """Step until all workers serve; return their process ids."""
        self.until(lambda: len(self.serving()) == len(self.sockets))
        return self.serving()

    def serving(self) -> set[int]:
        rows = [row for row in self.pool.counters.rows if row[COLUMNS.ready]]
        assert len({row[COLUMNS.pid] for row in rows}) == len(rows)
        return {row[COLUMNS.pid] for row in rows}

    def pids(self) -> set[int]:
        """All worker processes, including those that are starting or ending."""
        return {worker.process.pid or 0 for worker in self.pool.workers}

    def readers(self) -> set[int]:
        """Workers that have read their orders."""
        return set(map(int, self.model.with_name("readers").read_text().split()))

    def signal(self, *numbers: int) -> None:
        self.supervisor.signal_queue += numbers

    def restarts(self) -> int:
        return self.pool.counters.total(COLUMNS.restarts)

    def let_pass(self, seconds: int, stopped: int = 0) -> None:
        """Let seconds pass; every serving worker but the stopped one has a heartbeat in each."""
        for _ in range(seconds):
            rows = [row for row in self.pool.counters.rows if row[COLUMNS.ready]]
            awake = [row for row in rows if row[COLUMNS.pid] != stopped]
            before = [row[COLUMNS.heartbeats] for row in awake]
            for row, beats in zip(awake, before, strict=True):
                self.until(partial(_beats_beyond, row, beats))
            self.pool.clock.now += 1
            self.supervisor.step()

    def end(self) -> None:
        for worker in self.pool.workers:
            worker.send(signal.SIGKILL)
            worker.process.join()
        for one in self.sockets:
            one.close()


def _beats_beyond(row: memoryview, beats: int) -> bool:
    return bool(row[COLUMNS.heartbeats] > beats)


Start = Callable[..., Service]


def received(service: Service) -> dict[int, list[str]]:
    """The signals that each worker has received."""
    by_pid: dict[int, list[str]] = {}
    for line in service.signals.read_text().splitlines():
        pid, name = line.split()
        by_pid.setdefault(int(pid), []).append(name)
    return by_pid
