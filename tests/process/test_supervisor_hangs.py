"""Workers without a heartbeat are killed and replaced."""

import os
import signal

import pytest

from cartpole.process.worker_pool import RunningClock
from tests.support.supervised import Start


def test_a_hung_worker_is_replaced(make: Start, caplog: pytest.LogCaptureFixture) -> None:
    service = make(worker_timeout=3)
    hung, other = sorted(service.start())
    os.kill(hung, signal.SIGSTOP)
    service.let_pass(3, hung)
    assert caplog.messages == []
    service.let_pass(1, hung)
    assert caplog.messages == [
        f"worker {hung} did not respond for 3 s and was killed; replacing it"
    ]
    service.until(lambda: hung not in service.pids())
    assert other in service.start()
    assert service.restarts() == 1


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
        service.pool.clock._read_at -= 3600  # as if the previous step had been an hour ago
        RunningClock.tick(service.pool.clock)
        service.supervisor.step()
        for pid in old:
            os.kill(pid, signal.SIGCONT)
        service.let_pass(2)
    assert service.pids() == service.serving() == old
    assert caplog.messages == []
