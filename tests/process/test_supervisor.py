"""The supervisor, step by step, over workers that start in a tenth of a second."""

import errno
import logging
import multiprocessing.util
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cartpole.metrics.counters import COLUMNS
from cartpole.process.supervisor import Supervisor
from cartpole.process.worker_pool import Clock
from cartpole.settings import Settings
from tests.support.paths import ROOT
from tests.support.stub_worker import serve
from tests.support.waiting import children, wait_until

PATIENCE_SECONDS = 30


class Service:
    """A supervisor whose steps the test takes, and whose time it can move on."""

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
        """What workers do that start from now on."""
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
        """So many lines with this end."""
        self.until(lambda: sum(line.endswith(end) for line in self.log.messages) == number)

    def start(self) -> set[int]:
        """All of its workers, once they serve."""
        self.until(lambda: len(self.serving()) == len(self.sockets))
        return self.serving()

    def serving(self) -> set[int]:
        rows = [row for row in self.pool.board.rows if row[COLUMNS.ready]]
        assert len({row[COLUMNS.pid] for row in rows}) == len(rows)
        return {row[COLUMNS.pid] for row in rows}

    def pids(self) -> set[int]:
        """All processes, also those that start or end."""
        return {worker.process.pid or 0 for worker in self.pool.workers}

    def readers(self) -> set[int]:
        """All that have read their orders."""
        return set(map(int, self.model.with_name("readers").read_text().split()))

    def signal(self, *numbers: int) -> None:
        self.supervisor.signal_queue += numbers

    def restarts(self) -> int:
        return self.pool.board.total(COLUMNS.restarts)

    def let_pass(self, seconds: int, stopped: int = 0) -> None:
        """So many seconds, in each of which all that serve beat but for the one that is stopped."""
        for _ in range(seconds):
            rows = [row for row in self.pool.board.rows if row[COLUMNS.ready]]
            awake = [row for row in rows if row[COLUMNS.pid] != stopped]
            before = [row[COLUMNS.beats] for row in awake]
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
    return bool(row[COLUMNS.beats] > beats)


Start = Callable[..., Service]


@pytest.fixture
def make(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    caplog.set_level(logging.INFO, "cartpole")
    made: list[Service] = []

    def start(orders: str = "serve", workers: int = 2, **settings: Any) -> Service:
        made.append(Service(tmp_path, caplog, orders, workers, **settings))
        return made[-1]

    yield start
    for service in made:
        service.end()


def test_the_first_worker_starts_alone(make: Start) -> None:
    service = make(workers=3)
    service.until(service.serving)
    assert len(service.pids()) == len(service.serving()) == 1
    assert len(service.start()) == 3
    assert service.pids() == service.serving()
    assert service.restarts() == 0


# Rows of the board


def test_reloads_wait_for_rows_that_lingering_workers_keep(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make("stubborn")
    old = service.start()
    for number in (1, 2, 3, 4):
        service.signal(signal.SIGHUP)
        if number == 3:  # those of before have all rows
            for _ in range(20):
                service.supervisor.step()
            assert len(service.pids()) == len(service.pool.board.rows) - 1
            assert len(service.serving()) == 2  # retiring ones are not counted
            assert caplog.messages.count("reload: done") == 2
            service.let_pass(36)
        service.until_logged("reload: done", number)
        assert len(service.serving()) == 2
        assert not old & service.serving()
        old |= service.serving()
    service.let_pass(36)  # their time is up
    service.until(lambda: service.pids() == service.serving())
    assert service.restarts() == 0
    assert [line for line in caplog.messages if "reload" not in line] == []


def test_a_dead_worker_keeps_its_row_no_longer(make: Start) -> None:
    service = make("serve")
    service.start()
    for number in range(1, len(service.pool.board.rows) + 1):
        victim = min(service.serving())
        os.kill(victim, signal.SIGKILL)
        service.until_logged("ended by SIGKILL: replaced", number)
        assert victim not in service.start()
    assert service.pids() == service.serving()


# The last request to reload wins


def test_a_good_reload_right_after_a_bad_one(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make()
    old = service.start()
    service.order("exit 3 late")
    service.signal(signal.SIGHUP)
    service.until(lambda: len(service.readers() & service.pids()) == 3)
    service.order("serve")
    service.signal(signal.SIGHUP)
    service.until_logged("reload: done")
    assert len(service.serving()) == 2
    assert not old & service.serving()


def test_a_refused_reload_says_why_and_the_next_one_works(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    old = service.start()
    service.order("exit 3")
    service.signal(signal.SIGHUP)
    service.until(lambda: len(service.pids()) == 3)
    (successor,) = service.pids() - old
    service.until(lambda: len(caplog.messages) == 2)
    assert caplog.messages == [
        "reload: replacing 2 workers",
        "reload refused, the workers from before serve on: "
        f"worker {successor} ended with 3 while starting",
    ]
    assert service.serving() == old
    service.until(lambda: service.pids() == old)
    service.order("serve")
    service.signal(signal.SIGHUP)
    service.until_logged("reload: done")
    assert not old & service.serving()
    assert service.restarts() == 0


def test_a_successor_that_is_killed_has_another(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    old = service.start()
    service.order("die")
    service.signal(signal.SIGHUP)
    service.until_logged("ended by SIGKILL while starting: again in 1 s")
    assert service.serving() == old
    service.order("serve")
    service.pool.clock.now += 1
    service.until_logged("reload: done")
    assert not old & service.serving()


def test_a_reload_in_the_middle_of_another(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make(workers=3)
    old = service.start()
    service.signal(signal.SIGHUP)
    service.until(lambda: len(service.serving() - old) == 1)
    before = service.pids()
    service.signal(signal.SIGHUP)
    service.until_logged("reload: done")
    assert len(service.serving()) == 3
    assert not before & service.serving()


def test_many_reloads_in_a_row(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make()
    old = service.start()
    for _ in range(20):
        service.signal(signal.SIGHUP, signal.SIGHUP)
        service.supervisor.step()
    service.until_logged("reload: done")
    service.until(lambda: service.pids() == service.serving())
    assert len(service.serving()) == 2
    assert not old & service.serving()
    counts = {line: caplog.messages.count(line) for line in caplog.messages}
    assert counts == {"reload: replacing 2 workers": 40, "reload: done": 1}


def test_a_reload_that_hangs_gives_way_to_the_next(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    old = service.start()
    service.order("hang")
    os.kill(min(old), signal.SIGKILL)
    service.until(service.restarts)
    service.signal(signal.SIGHUP)
    service.until(
        lambda: len(service.readers() & service.pids()) == 3
    )  # one that serves, two that hang
    assert len(service.serving()) == 1
    service.order("serve")
    service.signal(signal.SIGHUP)
    service.until_logged("reload: done")
    service.until(lambda: service.pids() == service.serving())
    assert not old & service.serving()


def test_a_reload_that_hangs_is_refused_in_time(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make()
    old = service.start()
    service.order_to_hang()
    service.signal(signal.SIGHUP)
    service.until(lambda: len(service.pids()) == 3)
    service.let_pass(61)
    assert caplog.messages[-1].endswith("was not ready after 60 s and was killed")
    service.until(lambda: service.pids() == old)
    assert service.serving() == old


# Starts that fail


def fail_to_spawn(number: int) -> Callable[..., int]:
    def spawn(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    return spawn


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_no_process_can_be_had(make: Start, caplog: pytest.LogCaptureFixture, number: int) -> None:
    service = make()
    old = service.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multiprocessing.util, "spawnv_passfds", fail_to_spawn(number))
        check_retried(service, old, caplog, os.strerror(number))
    check_mended(service, caplog)


def test_no_descriptor_can_be_had(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make()
    old = service.start()
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(map(int, os.listdir("/proc/self/fd")))
    taken: list[int] = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, before[1]))
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(2))
        check_retried(service, old, caplog, "Too many open files")
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    check_mended(service, caplog)


def test_the_working_directory_is_gone(
    make: Start, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    service = make()
    old = service.start()
    with pytest.MonkeyPatch.context() as patch:
        (tmp_path / "gone").mkdir()
        patch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
        check_retried(service, old, caplog, "the working directory is gone")
    check_mended(service, caplog)


def check_retried(
    service: Service, old: set[int], caplog: pytest.LogCaptureFixture, reason: str
) -> None:
    """One of two workers dies: the other serves on, and so it does while workers are replaced."""
    victim, other = sorted(old)
    os.kill(victim, signal.SIGKILL)
    failed = f"can't start a worker: {reason}: again in "
    service.until_logged(failed + "1 s")
    for seconds, following in ((1, 2), (2, 5), (5, 10), (10, 30), (30, 30)):
        service.let_pass(seconds - 1)
        assert caplog.messages[-1] == failed + f"{seconds} s"
        service.let_pass(1)
        service.until_logged(f"again in {following} s", 2 if seconds == following else 1)
    assert len(caplog.records) == 7  # with that of the death
    assert service.serving() == service.pids() == {other}
    service.signal(signal.SIGHUP)
    service.until_logged(failed + "1 s", 3)
    assert service.serving() == service.pids() == {other}


def check_mended(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    (other,) = service.serving()
    service.pool.clock.now += 1
    service.until_logged("reload: done")
    assert len(service.serving()) == 2
    assert other not in service.serving()
    assert service.restarts() == 1


def test_a_first_worker_that_is_killed_while_starting(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make("die")
    service.supervisor.step()
    (first,) = service.pids()
    service.until(lambda: caplog.messages)
    assert caplog.messages == [f"worker {first} ended by SIGKILL while starting: again in 1 s"]
    assert not service.supervisor.ended()
    service.order("serve")
    service.pool.clock.now += 1
    assert len(service.start()) == 2


@pytest.mark.parametrize("code", [3, 1])
def test_a_first_worker_that_can_not_serve(
    make: Start, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    service = make(f"exit {code}")
    service.supervisor.step()
    (first,) = service.pids()
    if code == 3:  # it has said why; nor will the next
        service.until(service.supervisor.ended)
        assert service.supervisor.exit_code == 3
        assert caplog.messages == []
    else:
        service.until(lambda: caplog.messages)
        assert caplog.messages == [f"worker {first} ended with 1 while starting: again in 1 s"]


def test_a_worker_that_can_not_start_again(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make()
    victim, other = sorted(service.start())
    service.order("exit 3")
    os.kill(victim, signal.SIGKILL)
    for wait in (1, 2, 5):
        service.until_logged(f" ended with 3 while starting: again in {wait} s")
        assert service.serving() == {other}
        service.let_pass(wait)
    assert caplog.messages[0] == f"worker {victim} ended by SIGKILL: replaced"
    service.order("serve")
    service.let_pass(10)
    assert other in service.start()


def test_a_fault_of_our_own_reaches_no_worker(
    make: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    victim, other = sorted(service.start())
    look = service.pool.look
    faults = [True]

    def break_down() -> None:
        look()
        if faults.pop():
            raise KeyError("row")

    monkeypatch.setattr(service.pool, "look", break_down)
    os.kill(victim, signal.SIGKILL)
    assert not service.supervisor.step()
    assert caplog.messages[0] == "the supervisor failed: again in 1 s"
    assert caplog.records[0].exc_info
    faults += [False] * 10_000
    assert other in service.start()


# Workers that hang


def test_a_hung_worker_is_replaced(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make(worker_timeout=3)
    hung, other = sorted(service.start())
    os.kill(hung, signal.SIGSTOP)
    service.let_pass(3, hung)
    assert caplog.messages == []
    service.let_pass(1, hung)
    assert caplog.messages == [f"worker {hung} stood still for 3 s and was killed: replaced"]
    service.until(lambda: hung not in service.pids())
    assert other in service.start()
    assert service.restarts() == len(caplog.messages) == 1


def test_a_hung_worker_that_retires_or_stops_is_killed(make: Start) -> None:
    service = make(worker_timeout=3)
    hung = min(service.start())
    os.kill(hung, signal.SIGSTOP)
    service.signal(signal.SIGHUP)
    service.until(lambda: hung not in service.serving() and len(service.serving()) == 2)
    assert hung in service.pids()
    service.let_pass(4, hung)
    service.until(lambda: hung not in service.pids())
    assert service.restarts() == 0


def test_hung_workers_may_be_left_alone(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make(worker_timeout=0)
    old = service.start()
    os.kill(min(old), signal.SIGSTOP)
    service.let_pass(12, min(old))
    assert service.pids() == service.serving() == old
    assert caplog.messages == []


def test_a_pause_of_the_whole_machine_is_no_hang(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(worker_timeout=3)
    old = service.start()
    for _ in range(2):
        for pid in old:
            os.kill(pid, signal.SIGSTOP)
        service.supervisor.step()
        service.pool.clock._read -= 3600  # as if the last step had been so long ago
        Clock.tick(service.pool.clock)
        service.supervisor.step()
        for pid in old:
            os.kill(pid, signal.SIGCONT)
        service.let_pass(2)
    assert service.pids() == service.serving() == old
    assert caplog.messages == []


# The end


def received(service: Service) -> dict[int, list[str]]:
    """The signals that each worker has had."""
    by_pid: dict[int, list[str]] = {}
    for line in service.signals.read_text().splitlines():
        pid, name = line.split()
        by_pid.setdefault(int(pid), []).append(name)
    return by_pid


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops(make: Start, caplog: pytest.LogCaptureFixture, number: signal.Signals) -> None:
    service = make()
    workers = service.start()
    service.signal(number)
    service.until(service.supervisor.ended)
    assert received(service) == {pid: [number.name] for pid in workers}
    assert (service.supervisor.exit_code, caplog.messages) == (0, [])


def test_two_signals_at_once_are_two(make: Start) -> None:
    service = make("stubborn")
    workers = service.start()
    service.signal(signal.SIGTERM, signal.SIGTERM)
    service.supervisor.step()
    service.until(
        lambda: service.signals.exists() and len(service.signals.read_text().split()) == 8
    )
    assert {pid: sorted(names) for pid, names in received(service).items()} == {
        pid: ["SIGINT", "SIGTERM"] for pid in workers
    }
    service.pool.clock.now += 6
    service.until(service.supervisor.ended)
    assert service.supervisor.exit_code == 0


def test_a_stubborn_worker_is_killed_in_the_end(make: Start) -> None:
    service = make("stubborn", drain_seconds=5, shutdown_timeout=10)
    workers = service.start()
    service.signal(signal.SIGTERM)
    service.let_pass(20)
    assert service.pids() == workers
    service.pool.clock.now += 1
    service.until(service.supervisor.ended)
    assert service.supervisor.exit_code == 0


@pytest.mark.parametrize("when", ["start", "reload"])
def test_stops_though_a_start_hangs(make: Start, when: str) -> None:
    service = make()
    workers = service.start() if when == "reload" else set()
    service.order_to_hang()
    service.signal(signal.SIGHUP)
    service.until(lambda: len(service.pids()) == len(workers) + 1)
    service.signal(signal.SIGTERM)
    service.supervisor.step()
    service.until(lambda: len(service.pids()) <= 1)
    service.pool.clock.now += 1.1
    service.until(service.supervisor.ended)
    assert service.supervisor.exit_code == 0


def test_stops_after_so_many_requests_of_all_workers(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(limit_requests=10)
    workers = service.start()
    for row, number in ((1, 4), (2, 5)):
        service.pool.board.rows[row][COLUMNS.total_requests] = number
    for _ in range(10):
        service.supervisor.step()
    assert service.serving() == workers
    service.pool.board.rows[1][COLUMNS.total_requests] = 5
    service.until(service.supervisor.ended)
    assert received(service) == {pid: ["SIGUSR1"] for pid in workers}
    assert caplog.messages == ["--limit-requests 10 is reached: stopping"]
    assert caplog.records[0].levelno == logging.INFO
    assert (service.supervisor.exit_code, service.restarts()) == (0, 0)


# As a process of its own

PROGRAM = """
import sys
from pathlib import Path
from cartpole.process import signals
from cartpole.settings import Settings
from cartpole.process.supervisor import Supervisor
from tests.support.stub_worker import serve
import logging, socket
if __name__ == "__main__":
    signals.catch()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(model=Path(sys.argv[1]), workers=2)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    supervisor = Supervisor(settings, sockets, serve)
    supervisor.run()
    sys.exit(supervisor.exit_code)
"""


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A supervisor that has replaced both of its workers once."""
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "model").write_text("serve")
    with subprocess.Popen(
        [sys.executable, tmp_path / "program.py", tmp_path / "model"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stderr
        try:
            wait_until(lambda: len(workers_of(started)) == 2)
            started.send_signal(signal.SIGHUP)
            assert [next(started.stderr) for _ in range(2)] == [
                "reload: replacing 2 workers\n",
                "reload: done\n",
            ]
            wait_until(lambda: len(workers_of(started)) == 2)
            yield started
        finally:
            started.kill()


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    return children(process.pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_stops(process: subprocess.Popen[str], number: signal.Signals) -> None:
    process.send_signal(number)
    _, log = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, log) == (0, "")


def test_workers_do_not_outlive_their_supervisor(process: subprocess.Popen[str]) -> None:
    workers = workers_of(process)
    process.kill()
    process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
