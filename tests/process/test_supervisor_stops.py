"""The supervisor stops its workers: on signals, on --limit-requests, while a start hangs."""

import logging
import signal

import pytest

from cartpole.metrics.counters import COLUMNS
from tests.support.supervised import Start, received


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops(make: Start, caplog: pytest.LogCaptureFixture, number: signal.Signals) -> None:
    service = make()
    workers = service.start()
    service.signal(number)
    service.until(lambda: service.supervisor.is_finished)
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
    service.pool.clock.now += 1.1
    service.until(lambda: service.supervisor.is_finished)
    assert service.supervisor.exit_code == 0


def test_a_stubborn_worker_is_killed_in_the_end(make: Start) -> None:
    service = make("stubborn", drain_seconds=5, shutdown_timeout=10)
    workers = service.start()
    service.signal(signal.SIGTERM)
    service.let_pass(20)
    assert service.pids() == workers
    service.pool.clock.now += 1
    service.until(lambda: service.supervisor.is_finished)
    assert service.supervisor.exit_code == 0


@pytest.mark.parametrize("when", ["start", "reload"])
def test_stops_though_a_load_hangs(make: Start, when: str) -> None:
    service = make()
    if when == "reload":
        service.start()
    service.order("hang")
    service.signal(signal.SIGHUP)
    service.until_load_hangs()
    service.signal(signal.SIGTERM)
    service.until(lambda: service.supervisor.is_finished)
    assert service.supervisor.exit_code == 0


def test_stops_though_a_worker_hangs_as_it_starts(make: Start) -> None:
    service = make("hang")
    service.until(service.pids)
    service.signal(signal.SIGTERM)
    service.supervisor.step()
    service.pool.clock.now += 1.1
    service.until(lambda: service.supervisor.is_finished)
    assert service.supervisor.exit_code == 0


def test_stops_after_so_many_requests_of_all_workers(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make(limit_requests=10)
    workers = service.start()
    for row, number in ((2, 4), (3, 5)):
        service.pool.counters.rows[row][COLUMNS.total_requests] = number
    for _ in range(10):
        service.supervisor.step()
    assert service.serving() == workers
    service.pool.counters.rows[2][COLUMNS.total_requests] = 5
    service.until(lambda: service.supervisor.is_finished)
    assert received(service) == {pid: ["SIGUSR1"] for pid in workers}
    assert caplog.messages == ["--limit-requests 10 is reached: stopping"]
    assert caplog.records[0].levelno == logging.INFO
    assert (service.supervisor.exit_code, service.restarts()) == (0, 0)
