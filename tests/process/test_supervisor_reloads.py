"""Rolling replacement: rows of the counters, overlapping requests to reload, rejected policies."""

import os
import signal

import pytest

from tests.support.supervised import Start


def test_reloads_wait_for_rows_that_lingering_workers_keep(
    make: Start, caplog: pytest.LogCaptureFixture
) -> None:
    service = make("stubborn")
    old = service.start()
    for number in (1, 2, 3, 4):
        service.signal(signal.SIGHUP)
        if number == 3:  # retiring workers occupy all rows
            for _ in range(20):
                service.supervisor.step()
            assert len(service.pids()) == len(service.pool.counters.rows) - 1
            assert len(service.serving()) == 2  # retiring workers are not counted
            assert caplog.messages.count("reload: done") == 2
            service.let_pass(36)
        service.until_logged("reload: done", number)
        assert len(service.serving()) == 2
        assert not old & service.serving()
        old |= service.serving()
    service.let_pass(36)  # past the time limit of retiring workers
    service.until(lambda: service.pids() == service.serving())
    assert service.restarts() == 0
    assert [line for line in caplog.messages if "reload" not in line] == []


def test_a_dead_worker_keeps_its_row_no_longer(make: Start) -> None:
    service = make("serve")
    service.start()
    for number in range(1, len(service.pool.counters.rows) + 1):
        victim = min(service.serving())
        os.kill(victim, signal.SIGKILL)
        service.until_logged("ended by SIGKILL; replacing it", number)
        assert victim not in service.start()
    assert service.pids() == service.serving()


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
        "reload rejected, the previous workers keep serving: "
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
    service.until_logged("ended by SIGKILL while starting; retrying in 1 s")
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
    service.until(lambda: len(service.readers() & service.pids()) == 3)  # one serves, two hang
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
