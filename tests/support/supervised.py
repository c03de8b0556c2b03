"""A supervisor whose steps a test takes, over workers of a stub template."""

import socket
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cartpole.metrics.counters import COLUMNS
from cartpole.process.parent import adopt_orphans
from cartpole.process.supervisor import Supervisor
from cartpole.settings import read

PATIENCE_SECONDS = 30
STUB = "tests.support.stub_template"


class Service:
    """A supervisor whose steps and clock the test controls."""

    def __init__(
        self,
        folder: Path,
        log: pytest.LogCaptureFixture,
        workers: int,
        orders: str = "serve",
        **settings: Any,
    ) -> None:
        self.log = log
        self.model, self.signals = folder / "model", folder / "signals"
        self.order("policy")
        self.order_workers(orders)
        self.sockets = [socket.socket() for _ in range(workers)]
        for each in self.sockets:
            each.bind(("127.0.0.1", 0))
        flags = ["--model", str(self.model), "--workers", str(workers)]
        for name, value in settings.items():
            flags += [f"--{name.replace('_', '-')}", str(value)]
        self.supervisor = Supervisor(read(flags, {}), flags, self.sockets, STUB)
        adopt_orphans()
        self.pool = self.supervisor.pool
        self.pool.clock.tick = lambda: None  # type: ignore[method-assign]  # let_pass does it

    def order(self, orders: str) -> None:
        """Set the orders of templates that start from now on."""
        self._write(self.model, orders)

    def order_workers(self, orders: str) -> None:
        """Set the orders of workers that start from now on."""
        self._write(self.model.with_name("workers"), orders)

    def until_load_hangs(self) -> None:
        """Have a load that is ordered to hang do so."""
        mark = self.model.with_name("hangs")
        self.until(mark.exists)
        mark.unlink()

    def _write(self, path: Path, text: str) -> None:
        new = path.with_name("new")
        new.write_text(text)
        new.replace(path)

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
        """Step until all workers serve, and forget the log; return their process ids."""
        number = len(self.sockets)
        self.until_logged(f"{number} of {number} workers serve")
        self.log.clear()
        return self.serving()

    def serving(self) -> set[int]:
        rows = [row for row in self.pool.counters.rows if row[COLUMNS.ready]]
        assert len({row[COLUMNS.pid] for row in rows}) == len(rows)
        return {row[COLUMNS.pid] for row in rows}

    def pids(self) -> set[int]:
        """All worker processes whose ids are known, including those that are starting or ending."""
        return {worker.pid for worker in self.pool.workers} - {0}

    def template(self) -> int:
        """The process id of the template of the accepted policy."""
        assert self.supervisor.templates.current
        return self.supervisor.templates.current.pid

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
        for child in (*self.supervisor.templates.all, *self.pool.workers):
            child.kill()
        for each in self.sockets:
            each.close()


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
