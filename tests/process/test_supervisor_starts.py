"""How workers start: the first one alone; failed starts are retried while the others serve."""

import errno
import multiprocessing.util
import os
import resource
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.supervised import Service, Start


def test_the_first_worker_starts_alone(make: Start) -> None:
    service = make(workers=3)
    service.until(service.serving)
    assert len(service.pids()) == len(service.serving()) == 1
    assert len(service.start()) == 3
    assert service.pids() == service.serving()
    assert service.restarts() == 0


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
    """One of two workers dies. The other keeps serving, also while workers are replaced."""
    victim, other = sorted(old)
    os.kill(victim, signal.SIGKILL)
    failed = f"can't start a worker: {reason}; retrying in "
    service.until_logged(failed + "1 s")
    for seconds, following in ((1, 2), (2, 5), (5, 10), (10, 30), (30, 30)):
        service.let_pass(seconds - 1)
        assert caplog.messages[-1] == failed + f"{seconds} s"
        service.let_pass(1)
        service.until_logged(f"retrying in {following} s", 2 if seconds == following else 1)
    assert len(caplog.records) == 7  # one of them reports the killed worker
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
    assert caplog.messages == [f"worker {first} ended by SIGKILL while starting; retrying in 1 s"]
    assert not service.supervisor.is_finished
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
    if code == 3:  # the worker has logged the reason; a new one would fail the same way
        service.until(lambda: service.supervisor.is_finished)
        assert service.supervisor.exit_code == 3
        assert caplog.messages == []
    else:
        service.until(lambda: caplog.messages)
        assert caplog.messages == [f"worker {first} ended with 1 while starting; retrying in 1 s"]


def test_a_worker_that_can_not_start_again(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make()
    victim, other = sorted(service.start())
    service.order("exit 3")
    os.kill(victim, signal.SIGKILL)
    for wait in (1, 2, 5):
        service.until_logged(f" ended with 3 while starting; retrying in {wait} s")
        assert service.serving() == {other}
        service.let_pass(wait)
    assert caplog.messages[0] == f"worker {victim} ended by SIGKILL; replacing it"
    service.order("serve")
    service.let_pass(10)
    assert other in service.start()


def test_a_fault_of_our_own_reaches_no_worker(
    make: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    victim, other = sorted(service.start())
    poll = service.pool.poll
    faults = [True]

    def break_down() -> None:
        poll()
        if faults.pop():
            raise KeyError("row")

    monkeypatch.setattr(service.pool, "poll", break_down)
    os.kill(victim, signal.SIGKILL)
    assert not service.supervisor.step()
    assert caplog.messages[0] == "the supervisor failed; retrying in 1 s"
    assert caplog.records[0].exc_info
    faults += [False] * 10_000
    assert other in service.start()
