"""The processes of a service: one alone, or a supervisor with a template and its workers."""

import json
import os
import signal
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.clients import connect
from tests.support.family import (
    LISTENING,
    Family,
    family,
    group,
    listeners,
    sockets_of,
    starting,
    tcp_sockets,
    templates,
    workers,
    zombies,
)
from tests.support.metrics import scrape
from tests.support.models import mlp, save
from tests.support.processes import descriptors
from tests.support.waiting import wait_until

SETTLE_SECONDS = 1.5  # time for a signal that should do nothing to do something
DRAIN_SECONDS = 4


def test_one_worker_alone_is_one_process(tmp_path: Path) -> None:
    with family(tmp_path, size=1) as alone:
        assert group(alone.server) == {alone.server.process.pid}


def test_the_supervisor_has_no_torch(pair: Family) -> None:
    supervisor = pair.server.process.pid
    has_torch = {
        pid: "libtorch" in Path(f"/proc/{pid}/maps").read_text()
        for pid in (supervisor, *templates(pair.server), *workers(pair.server))
    }
    assert not has_torch.pop(supervisor)
    assert list(has_torch.values()) == [True] * 3


def test_each_worker_has_one_listening_socket_and_the_template_none(pair: Family) -> None:
    for template in templates(pair.server):
        assert not sockets_of(template) & (listeners() | tcp_sockets())
    listening = tcp_sockets(LISTENING)
    held = [sockets_of(pid) & listening for pid in workers(pair.server)]
    assert [len(sockets) for sockets in held] == [1, 1]
    assert held[0] != held[1]


def test_signals_to_a_child_are_ignored(pair: Family) -> None:
    before, reloads = (workers(pair.server), templates(pair.server)), pair.log.count("reload")
    for pid in set.union(*before):
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(pid, number)
    time.sleep(SETTLE_SECONDS)
    assert (workers(pair.server), templates(pair.server)) == before
    assert {status for status, _ in pair.answers(50)} == {200}
    assert pair.server.get("/health/ready")[0] == 200
    assert pair.log.count("reload") == reloads
    pair.reload()
    pair.settle()
    assert not workers(pair.server) & before[0]


def test_sighup_to_the_group_reloads_once(pair: Family) -> None:
    before = pair.log.count("reload: done"), pair.log.count("now serving")
    os.killpg(pair.server.process.pid, signal.SIGHUP)
    pair.log.wait("reload: done", before[0] + 1)
    pair.settle()
    found = workers(pair.server), templates(pair.server)
    time.sleep(SETTLE_SECONDS)
    assert (workers(pair.server), templates(pair.server)) == found
    assert pair.log.count("reload: done") == before[0] + 1
    assert pair.log.count("now serving") <= before[1] + 1


def test_sigterm_to_the_group_drains_once(tmp_path: Path) -> None:
    with family(tmp_path, "--drain-seconds", str(DRAIN_SECONDS)) as pair:
        began = time.monotonic()
        os.killpg(pair.server.process.pid, signal.SIGTERM)
        wait_until(lambda: pair.server.get("/health/ready")[0] == 503)
        while time.monotonic() < began + DRAIN_SECONDS / 2:
            assert pair.answer()[0] == 200
        assert pair.server.process.wait(timeout=60) == 0
        assert time.monotonic() - began > DRAIN_SECONDS - 0.1


def test_killed_children_leave_nothing_behind(pair: Family) -> None:
    before = descriptors(pair.server)
    for turn in range(5):
        victims = sorted(workers(pair.server))[turn % 2 :]
        pair.kill(*victims[:1], *templates(pair.server))
    pair.kill(*workers(pair.server), *templates(pair.server))
    wait_until(lambda: not zombies(pair.server))
    wait_until(lambda: descriptors(pair.server) == before)
    assert {status for status, _ in pair.answers()} == {200}


def test_connections_of_a_killed_worker_are_not_counted(pair: Family) -> None:
    with ExitStack() as stack:
        for _ in range(20):
            stack.enter_context(connect(pair.server))
        wait_until(lambda: scrape(pair.server)["cartpole_connections_open", ()] >= 20)
        pair.kill(*workers(pair.server))
        # The scrape has a connection too, and the one before may not be closed yet.
        wait_until(lambda: scrape(pair.server)["cartpole_connections_open", ()] <= 2)
        assert scrape(pair.server)["cartpole_workers", ()] == 2


def test_workers_killed_while_they_start_leave_no_dead_socket(tmp_path: Path) -> None:
    with starting(tmp_path) as pair:
        killed: set[int] = set()
        while len(killed) < 3:
            wait_until(lambda: workers(pair.server) - killed)
            victim = min(workers(pair.server) - killed)
            os.kill(victim, signal.SIGKILL)
            killed.add(victim)
        wait_until(lambda: not workers(pair.server) & killed)
        pair.settle()
        assert {status for status, _ in pair.answers()} == {200}


def test_a_template_killed_while_the_service_starts_is_made_again(tmp_path: Path) -> None:
    with starting(tmp_path) as pair:
        wait_until(lambda: templates(pair.server))
        for pid in templates(pair.server):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not zombies(pair.server))
        pair.settle()
        assert {status for status, _ in pair.answers()} == {200}


def test_children_of_several_threads_do_not_hang(tmp_path: Path) -> None:
    """PyTorch's pool of threads does not survive a fork: the template may not have one."""
    save(tmp_path / "model.pt", mlp(4, 256, 256, 2))  # so large that a batch is computed in several
    body = json.dumps([[0.0] * 4] * 256).encode()
    head = b"POST /inference HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"

    def check(pair: Family) -> None:
        for _ in range(30):
            with connect(pair.server) as client:
                client.sendall(head % len(body) + body)
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")

    with family(tmp_path, "--threads", "4") as pair:
        check(pair)
        pair.kill(*workers(pair.server))
        check(pair)
        assert scrape(pair.server)["cartpole_worker_restarts_total", ()] == 2


@pytest.fixture(scope="module")
def start_log(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The log of two workers that are pinned to one core, up to the stop."""
    core = min(os.sched_getaffinity(0))
    with starting(tmp_path_factory.mktemp("log"), "--pin", cpu=core) as pair:
        pair.log.wait("serves on")
        wait_until(lambda: pair.server.get("/health/ready")[0] == 200)
        wait_until(lambda: scrape(pair.server)["cartpole_workers", ()] == 2)
        time.sleep(SETTLE_SECONDS)
        return pair.log.lines[:]


def test_a_start_is_logged_once(start_log: list[str]) -> None:
    (served,) = [at for at, line in enumerate(start_log) if " serves on http://" in line]
    (complete,) = [at for at, line in enumerate(start_log) if "2 of 2 workers serve" in line]
    assert served < complete


def test_more_pinned_workers_than_cores_are_warned_of_once(start_log: list[str]) -> None:
    (line,) = [line for line in start_log if " WARNING " in line]
    assert "--pin" in line


@pytest.mark.parametrize("moment", ["starting", "idle", "reloading"])
def test_no_process_outlives_a_killed_supervisor(tmp_path: Path, moment: str) -> None:
    with starting(tmp_path) as pair:
        if moment == "starting":
            wait_until(lambda: len(group(pair.server)) > 1)
        else:
            pair.settle()
        if moment == "reloading":
            known = group(pair.server)
            pair.signal(signal.SIGHUP)
            wait_until(lambda: group(pair.server) - known)
        pair.server.process.kill()
        pair.server.process.wait()
        wait_until(lambda: not group(pair.server))
        with socket.create_server(("127.0.0.1", pair.server.port)):
            pass
