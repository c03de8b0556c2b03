"""Rolling replacement: rows of the counters, overlapping requests to reload, rejected policies."""

import os
import signal
from functools import partial

import pytest

from cartpole.metrics.counters import COLUMNS, FIRST_WORKER_ROW
from tests.support.supervised import Service, Start, received
from tests.support.waiting import is_alive


def test_reloads_wait_for_rows_that_lingering_workers_keep(make: Start) -> None:
    """And for their end: after "reload: done", no process serves an earlier policy."""
    service = make("stubborn")
    old = service.start()
    for number in (1, 2, 3):
        service.signal(signal.SIGHUP)
        service.until_logged("reload: replacing 2 workers", number)
        if number < 3:
            service.until(partial(_serves_others, service, old))
            old |= service.serving()
    for _ in range(20):
        service.supervisor.step()
    assert len(service.pids()) == len(service.pool.counters.rows) - 2
    assert len(service.serving()) == 2  # retiring workers are not counted
    assert "reload: done" not in service.log.messages
    service.let_pass(36)  # the time limit of retiring workers
    service.until(lambda: len(service.serving() - old) == 2)
    service.let_pass(36)
    service.until_logged("reload: done")
    assert service.pids() == service.serving()
    assert not old & service.serving()
    assert service.restarts() == 0
    others = [line for line in service.log.messages if "reload" not in line]
    assert len(others) == 6
    assert all(line.endswith(" did not stop in time and was killed") for line in others)


def _serves_others(service: Service, old: set[int]) -> bool:
    return len(service.serving() - old) == 2


def test_a_dead_worker_keeps_its_row_no_longer(make: Start) -> None:
    service = make("serve")
    service.start()
    for _ in range(len(service.pool.counters.rows)):
        victim = min(service.serving())
        os.kill(victim, signal.SIGKILL)
        service.until_logged(f"worker {victim} ended by SIGKILL; replacing it")
        assert victim not in service.start()
    assert service.pids() == service.serving()


def test_one_load_more_follows_one_that_is_under_way(make: Start) -> None:
    """With the file as it is then; however often that was asked for."""
    service = make()
    old = service.start()
    service.order("hang")
    service.signal(signal.SIGHUP)
    service.until_load_hangs()
    loading = service.supervisor.templates.loading
    assert loading
    service.order("policy")
    service.signal(*[signal.SIGHUP] * 5)
    for _ in range(20):
        service.supervisor.step()
    assert service.supervisor.templates.loading is loading
    os.kill(loading.pid, signal.SIGKILL)
    service.until_logged("failed: ended by SIGKILL; retrying in 1 s")
    service.pool.clock.now += 1
    service.until_logged("reload: done")
    assert not old & service.serving()
    assert received(service) == {pid: ["SIGUSR1"] for pid in old}  # they don't drain
    assert service.log.messages.count("reload: replacing 2 workers") == 1


def test_a_refused_reload_changes_nothing_and_the_next_one_works(make: Start) -> None:
    service = make()
    old, template = service.start(), service.template()
    service.order("refuse no good")
    service.signal(signal.SIGHUP)
    service.until_logged("reload rejected, the previous workers keep serving: no good")
    assert (service.serving(), service.template()) == (old, template)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    assert len(service.start()) == 2
    service.order("policy")
    service.signal(signal.SIGHUP)
    service.until_logged("reload: done")
    assert service.template() != template
    assert service.restarts() == 2


@pytest.mark.parametrize(
    ("orders", "failure"),
    [
        ("exit 1", "ended with 1"),
        ("crash", "ended by SIGSEGV"),
        ("hang", "did nothing for 30 s and was killed"),
    ],
)
def test_a_load_that_fails_by_itself_is_refused(make: Start, orders: str, failure: str) -> None:
    """Another attempt would fail too, unlike after a SIGKILL."""
    service = make()
    old = service.start()
    service.order(orders)
    service.signal(signal.SIGHUP)
    if orders == "hang":
        service.until_load_hangs()
        service.let_pass(32)
    service.until(lambda: service.log.messages)
    (line,) = service.log.messages
    assert line.startswith("reload rejected, the previous workers keep serving: template ")
    assert line.endswith(f" {failure}")
    assert service.serving() == old


def test_a_load_that_is_killed_is_tried_again(make: Start) -> None:
    service = make()
    old = service.start()
    service.order("die")
    service.signal(signal.SIGHUP)
    service.until_logged("failed: ended by SIGKILL; retrying in 1 s")
    assert service.serving() == old
    service.order("policy")
    service.pool.clock.now += 1
    service.until_logged("reload: done")
    assert not old & service.serving()


def test_a_reload_in_the_middle_of_another(make: Start) -> None:
    service = make(workers=3)
    old = service.start()
    service.signal(signal.SIGHUP)
    service.until(lambda: len(service.serving() - old) == 1)
    before = service.pids()
    service.signal(signal.SIGHUP)
    service.until_logged("reload: replacing 3 workers", 2)
    service.until(lambda: service.log.messages[-1] == "reload: done")
    service.until(lambda: service.pids() == service.serving())
    assert len(service.serving()) == 3
    assert not before & service.serving()


def test_many_reloads_in_a_row(make: Start) -> None:
    service = make()
    old = service.start()
    for _ in range(20):
        service.signal(signal.SIGHUP, signal.SIGHUP)
        service.supervisor.step()
    service.until(lambda: not service.supervisor.templates.loading)
    service.until_logged("reload: replacing 2 workers", 2)
    service.until(lambda: service.log.messages[-1] == "reload: done")
    service.until(lambda: service.pids() == service.serving())
    assert len(service.serving()) == 2
    assert not old & service.serving()


def test_a_template_that_hangs_ends_with_the_next(make: Start) -> None:
    """It was to fork a worker, whose row of the counters is another's by now."""
    service = make()
    victim, late = min(service.start()), service.template()
    os.kill(late, signal.SIGSTOP)
    os.kill(victim, signal.SIGKILL)
    service.until_logged(f"worker {victim} ended by SIGKILL; replacing it")
    service.signal(signal.SIGHUP)
    service.until_logged("reload: done")
    service.until(lambda: not is_alive(late))
    rows = service.pool.counters.rows[FIRST_WORKER_ROW:]
    assert {row[COLUMNS.pid] for row in rows} - {0} == service.serving() == service.pids()


def test_a_template_that_is_killed_in_a_reload(make: Start) -> None:
    """The accepted policy's: what loads then takes over."""
    service = make()
    old = service.start()
    service.signal(signal.SIGHUP)
    service.until(lambda: service.supervisor.templates.loading)
    os.kill(service.template(), signal.SIGKILL)
    service.until_logged("reload: done")
    assert not old & service.serving()


@pytest.mark.parametrize(
    ("orders", "line"),
    [
        ("policy", "reload: done"),
        ("refuse no good", "reload rejected, the previous workers keep serving: no good"),
    ],
)
def test_reloads_leave_no_descriptors(make: Start, orders: str, line: str) -> None:
    service = make()
    service.start()
    service.order(orders)
    counts = []
    for number in (1, 2, 3):
        service.signal(signal.SIGHUP)
        service.until_logged(line, number)
        service.until(lambda: service.pids() == service.serving())
        counts.append(len(os.listdir("/proc/self/fd")))
    assert counts[0] == counts[1] == counts[2]
