"""How templates and workers start, and what follows if that fails."""

import errno
import os
import resource
import signal
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.supervised import Service, Start


def test_the_first_worker_starts_alone(make: Start) -> None:
    service = make("hang", workers=3)
    service.until(service.pids)
    for _ in range(20):
        service.supervisor.step()
    (first,) = service.pool.workers
    service.order_workers("serve")
    first.kill()
    service.until_logged("while starting; retrying in 1 s")
    service.pool.clock.now += 1
    assert len(service.start()) == 3
    assert service.pids() == service.serving()


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
        check_retried(service, old, "can't start a worker: Too many open files")
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    check_mended(service)


@pytest.mark.parametrize(
    ("orders", "failure"),
    [
        ("exit 1", "ended with 1 while starting"),
        ("exit 3", "ended with 3 while starting"),
        ("die", "ended by SIGKILL while starting"),
    ],
)
def test_workers_that_can_not_start(make: Start, orders: str, failure: str) -> None:
    service = make()
    old = service.start()
    service.order_workers(orders)
    check_retried(service, old, failure)
    service.order_workers("serve")
    check_mended(service)


def check_retried(service: Service, old: set[int], reason: str) -> None:
    """One of two workers dies. The other keeps serving, also while workers are replaced."""
    victim, other = sorted(old)
    os.kill(victim, signal.SIGKILL)
    for number, wait in enumerate((1, 2, 5, 10, 30, 30)):
        service.until_logged(f"{reason}; retrying in {wait} s", 2 if number == 5 else 1)
        before = len(service.log.messages)
        service.let_pass(wait - 1)
        assert len(service.log.messages) == before
        if number < 5:  # after the last, no start is due before the test asks for one
            service.let_pass(1)
    assert service.serving() == {other}


def check_mended(service: Service) -> None:
    old = service.serving()
    service.signal(signal.SIGHUP)
    service.until_logged("2 of 2 workers serve")
    service.until_logged("reload: done")
    service.until(lambda: service.pids() == service.serving())
    assert len(service.serving()) == 2
    assert not old & service.serving()


def test_a_signal_may_have_no_name(make: Start) -> None:
    service = make()
    victim = min(service.start())
    os.kill(victim, signal.SIGRTMIN + 1)
    service.until_logged(f"worker {victim} ended by signal {signal.SIGRTMIN + 1}; replacing it")
    assert victim not in service.start()


def test_a_slot_whose_workers_can_not_start_gets_no_connections(make: Start) -> None:
    """And gets them again once one can. After one failure, they wait for the next start."""
    service = make("die")
    slot = service.sockets[0]

    def is_listening() -> bool:
        return bool(slot.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    for number in (1, 2):
        for wait in (1, 2):
            line = f"ended by SIGKILL while starting; retrying in {wait} s"
            service.until_logged(line, number)  # of the first slot, later of both
            assert is_listening() == (number == 2 and wait == 1)
            service.pool.clock.now += wait
        service.order_workers("serve")
        workers = service.start()
        assert is_listening()
        if number == 1:
            service.order_workers("die")
            for pid in workers:
                os.kill(pid, signal.SIGKILL)
    with socket.create_connection(slot.getsockname()) as client:
        accepted, _ = slot.accept()
        with accepted:
            accepted.sendall(b"answer")  # a socket that was shut down would send nothing
        assert client.recv(6) == b"answer"


@pytest.mark.parametrize(("code", "ends"), [(3, True), (1, False)])
def test_a_first_worker_that_can_not_serve(make: Start, code: int, ends: bool) -> None:
    """Exit code 3 says that it has logged the reason, and that another would fail as well."""
    service = make(f"exit {code}")
    if ends:
        service.until(lambda: service.supervisor.is_finished)
        assert (service.supervisor.exit_code, service.log.messages) == (3, [])
    else:
        service.until_logged("ended with 1 while starting; retrying in 1 s")


def test_a_policy_that_is_refused_ends_the_start(make: Start) -> None:
    service = make()
    service.order("refuse model x: no good")
    service.until(lambda: service.supervisor.is_finished)
    assert (service.supervisor.exit_code, service.log.messages) == (3, ["model x: no good"])
    assert service.restarts() == 0


@pytest.mark.parametrize(("orders", "end"), [("die", "by SIGKILL"), ("exit 1", "with 1")])
def test_a_template_that_dies_while_it_loads_has_another(
    make: Start, orders: str, end: str
) -> None:
    service = make()
    service.order(orders)
    for wait in (1, 2, 5):
        service.until_logged(f" failed: ended {end}; retrying in {wait} s")
        service.pool.clock.now += wait
    service.order("policy")
    assert len(service.start()) == 2


def test_no_process_can_be_had_for_a_template(make: Start) -> None:
    service = make()
    old = service.start()

    def spawn(*_: object) -> int:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    for number in (1, 2):  # failures are forgotten once there is one
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "posix_spawn", spawn)
            os.kill(service.template(), signal.SIGKILL)
            for wait in (1, 2, 5):
                line = f"{os.strerror(errno.EAGAIN)}; retrying in {wait} s"
                service.until_logged(line, number)
                service.let_pass(wait)
        assert service.serving() == old
        service.let_pass(10)
        service.until(lambda: service.supervisor.templates.current)
    assert service.serving() == old


def test_copies_for_which_there_is_no_descriptor_leave_none(make: Start) -> None:
    service = make()
    old = service.start()
    made: list[int] = []
    before = len(os.listdir("/proc/self/fd"))

    def make_file(name: str) -> int:
        if made:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        made.append(os.open(os.devnull, os.O_RDONLY))
        return made[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "memfd_create", make_file)
        service.signal(signal.SIGHUP)
        service.until_logged("can't start a template: Too many open files; retrying in 1 s")
    assert len(os.listdir("/proc/self/fd")) == before
    service.pool.clock.now += 1
    service.until_logged("reload: done")
    assert not old & service.serving()


def test_a_refusal_may_be_cut_within_a_character(make: Start) -> None:
    service = make()
    service.order("refuse x" + "\u00e9" * 4000)
    service.until(lambda: service.supervisor.is_finished)
    assert service.supervisor.exit_code == 3
    assert service.log.messages[0].startswith("x\u00e9\u00e9")


def test_why_an_accepted_policy_is_refused_later_is_logged(make: Start) -> None:
    service = make()
    old = service.start()
    assert service.supervisor.templates.accepted
    (copy, *_) = service.supervisor.templates.accepted.descriptors
    Path(f"/proc/self/fd/{copy}").write_text("refuse PyTorch is gone")
    os.kill(service.template(), signal.SIGKILL)
    service.until_logged(" failed: PyTorch is gone; retrying in 1 s")
    assert service.serving() == old


def test_an_order_that_a_template_took_with_it(make: Start) -> None:
    """Connections wait for the next start: no worker has failed."""
    service = make()
    old, template = service.start(), service.template()
    os.kill(template, signal.SIGSTOP)
    victim, other = sorted(old)
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    for pid in (victim, other):
        service.until_logged(f"worker {pid} ended by SIGKILL; replacing it")
    os.kill(template, signal.SIGKILL)
    service.until_logged("worker was not forked while starting; retrying in 1 s", 2)
    for each in service.sockets:
        assert each.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    service.pool.clock.now += 1
    assert len(service.start()) == 2


def test_a_template_that_is_killed_is_made_again_from_what_it_has_accepted(make: Start) -> None:
    service = make()
    old = service.start()
    service.order("refuse this is not what was accepted")
    first = service.template()
    os.kill(first, signal.SIGKILL)
    service.until_logged(f"template {first} ended by SIGKILL; making it again")
    assert service.serving() == old
    os.kill(min(old), signal.SIGKILL)
    service.until_logged("2 of 2 workers serve")
    assert max(old) in service.serving()
    assert service.template() != first


def test_a_template_that_hangs_when_it_is_to_fork_is_killed(make: Start) -> None:
    service = make()
    old = service.start()
    first = service.template()
    os.kill(first, signal.SIGSTOP)
    os.kill(min(old), signal.SIGKILL)
    service.until_logged(f"worker {min(old)} ended by SIGKILL; replacing it")
    service.let_pass(32)
    service.until_logged(f"template {first} ended by SIGKILL; making it again")
    service.until_logged("2 of 2 workers serve")
    assert max(old) in service.serving()


def test_a_fault_of_our_own_reaches_no_worker(
    make: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make()
    victim, other = sorted(service.start())
    observe = service.pool.observe
    faults = [True]

    def break_down(*arguments: object) -> None:
        observe(*arguments)  # type: ignore[arg-type]
        if faults.pop():
            raise KeyError("row")

    monkeypatch.setattr(service.pool, "observe", break_down)
    os.kill(victim, signal.SIGKILL)
    assert not service.supervisor.step()
    assert caplog.messages[0] == "the supervisor failed; retrying in 1 s"
    assert caplog.records[0].exc_info
    faults += [False] * 10_000
    assert other in service.start()
