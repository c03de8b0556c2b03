"""The policy that the processes of a service answer with: accepted, rejected, kept and replaced."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from tests.support.clients import connect
from tests.support.family import Family, family, templates, workers
from tests.support.load import check_all_answered, under_load
from tests.support.models import new_policy
from tests.support.processes import descriptors, start_error
from tests.support.waiting import wait_until

RETIRE_SECONDS = 15  # a hang limit; a drain would take 30
MEMORY = ["prlimit", "--data=4000000000"]  # a device without end may not take all of the machine's


def _are_gone(pair: Family, pids: set[int]) -> bool:
    return not (workers(pair.server) | templates(pair.server)) & pids


def test_a_killed_template_is_made_again_and_loses_no_request(pair: Family) -> None:
    old, serving = templates(pair.server), workers(pair.server)
    load = under_load(pair.server, lambda: pair.kill(*templates(pair.server)))
    check_all_answered(load)
    assert len(load.bodies) == 1
    assert not templates(pair.server) & old
    assert workers(pair.server) == serving


@pytest.mark.parametrize("file", ["another policy", "bad", "missing"])
def test_killed_processes_come_back_with_the_accepted_policy(
    pair: Family, file: str, tmp_path: Path
) -> None:
    before = pair.answer()
    if file == "missing":
        pair.model.unlink()
    else:
        pair.put(b"nonsense" if file == "bad" else new_policy(tmp_path))
    pair.kill(*templates(pair.server), *workers(pair.server))
    assert pair.answers() == {before}
    pair.kill(*workers(pair.server))
    assert pair.answers() == {before}
    pair.put(new_policy(tmp_path))


def check_rejection_then_reload(pair: Family, folder: Path) -> None:
    """A bad model file changes nothing, and a good one after it everything."""
    before = pair.answer()
    pair.put(b"nonsense")
    pair.reload("reload rejected")
    pair.kill(*workers(pair.server))
    assert pair.answers() == {before}
    pair.kill(*templates(pair.server), *workers(pair.server))
    assert pair.answers() == {before}
    pair.put(new_policy(folder))
    pair.reload()
    after = pair.answers()
    assert len(after) == 1
    assert after != {before}
    pair.settle()
    pair.kill(*templates(pair.server), *workers(pair.server))
    assert pair.answers() == after


def test_a_rejected_reload_changes_nothing(pair: Family, tmp_path: Path) -> None:
    check_rejection_then_reload(pair, tmp_path)


def test_a_rejected_reload_changes_nothing_natively(tmp_path: Path) -> None:
    with family(tmp_path, "--engine", "native") as pair:
        check_rejection_then_reload(pair, tmp_path)


def test_a_reload_after_a_rejected_one_leaves_no_dead_socket(pair: Family, tmp_path: Path) -> None:
    pair.put(b"nonsense")
    for _ in range(2):
        pair.reload("reload rejected")
    assert {status for status, _ in pair.answers()} == {200}
    pair.put(new_policy(tmp_path))
    pair.reload()
    assert {status for status, _ in pair.answers()} == {200}


def test_reloads_leave_nothing_behind(pair: Family) -> None:
    before = descriptors(pair.server)
    for _ in range(5):
        old = workers(pair.server) | templates(pair.server)
        pair.reload()
        pair.settle()
        wait_until(partial(_are_gone, pair, old))
    wait_until(lambda: descriptors(pair.server) == before)


def test_a_candidate_that_is_killed_is_tried_again(pair: Family, tmp_path: Path) -> None:
    before, known = pair.answer(), templates(pair.server)
    pair.put(new_policy(tmp_path))

    def reload_and_kill() -> None:
        number = pair.log.count("reload: done")
        pair.signal(signal.SIGHUP)
        wait_until(lambda: templates(pair.server) - known)
        candidate = max(templates(pair.server) - known)
        os.kill(candidate, signal.SIGSTOP)
        assert pair.answer()[0] == 200
        os.kill(candidate, signal.SIGKILL)
        pair.log.wait("reload: done", number + 1)

    check_all_answered(under_load(pair.server, reload_and_kill))
    after = pair.answers()
    assert len(after) == 1
    assert after != {before}
    pair.settle()


def test_a_replaced_worker_does_not_drain(tmp_path: Path) -> None:
    with family(tmp_path, "--drain-seconds", "30") as pair, connect(pair.server):
        old, statuses = workers(pair.server), set()
        pair.signal(signal.SIGHUP)
        done_at = float("inf")
        while workers(pair.server) & old:
            statuses.add(pair.server.get("/health/ready")[0])
            if pair.log.count("reload: done"):
                done_at = min(done_at, time.monotonic())
            assert time.monotonic() - done_at < RETIRE_SECONDS
        pair.log.wait("reload: done")
        assert statuses == {200}
        pair.server.process.kill()  # a stop would drain


def make_endless(path: Path, kind: str) -> None:
    """Put a file in place that can't be read to its end."""
    path.unlink(missing_ok=True)
    if kind == "FIFO":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")


@pytest.mark.parametrize("size", [1, 2])
@pytest.mark.parametrize("kind", ["FIFO", "device"])
def test_no_start_with_an_endless_model_file(tmp_path: Path, kind: str, size: int) -> None:
    path = tmp_path / "model.pt"
    make_endless(path, kind)
    flags = ("--model", str(path), "--port", "0", "--workers", str(size))
    code, line = start_error(*flags, prefix=MEMORY)
    assert code == 3
    assert str(path) in line


@pytest.mark.parametrize("size", [1, 2])
def test_a_reload_rejects_an_endless_model_file(tmp_path: Path, size: int) -> None:
    with family(tmp_path, size=size, prefix=MEMORY) as service:
        before = service.answer()
        for kind in ("FIFO", "device"):
            make_endless(service.model, kind)
            service.reload("reload rejected")
            assert service.answers(20) == {before}
        service.model.unlink()
        service.put(new_policy(tmp_path))
        service.reload("reload: now serving" if size == 1 else "reload: done")
        assert before not in service.answers(50)
