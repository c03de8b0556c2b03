"""Several workers and their replacement, under a load that accounts for every request."""

import asyncio
import http.client
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.server import Server, serving
from cartpole.settings import BUNDLED_MODEL
from tests.support.load import Load, check_all_answered, under_load
from tests.support.metrics import Samples, requests, scrape
from tests.support.models import mlp, save
from tests.support.paths import GOLDEN
from tests.support.processes import log_of
from tests.support.waiting import children, wait_for_log, wait_for_workers, wait_until


@dataclass(frozen=True)
class Pair:
    """A service of two workers and its model file. Each test leaves two running workers behind."""

    server: Server
    model: Path

    def signal(self, number: int) -> None:
        self.server.process.send_signal(number)

    def scrape(self) -> Samples:
        return scrape(self.server)

    def restarts(self) -> float:
        return self.scrape()["cartpole_worker_restarts_total", ()]

    def children(self) -> set[int]:
        return children(self.server.process.pid)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    model = tmp_path_factory.mktemp("pair") / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    flags = ("--workers", "2", "--pin", "--worker-timeout", "5", "--model", str(model))
    with serving(*flags) as server:
        yield Pair(server, model)
        log = log_of(server)
        assert all("] stopped after" in line for line in log.splitlines()[-2:])
        assert "Traceback" not in log


@pytest.fixture
def pair(running: Pair) -> Iterator[Pair]:
    wait_for_workers(running.server)
    yield running
    wait_for_workers(running.server)
    wait_until(lambda: len(running.children()) == 2)


def test_both_workers_answer(pair: Pair) -> None:
    before = pair.scrape()
    load = under_load(pair.server)
    check_all_answered(load)
    assert len(load.bodies) == 1
    after = pair.scrape()
    assert requests(after) - requests(before) == load.answered
    assert after["cartpole_workers", ()] == 2


def test_pinned_workers_have_a_core_each(pair: Pair) -> None:
    cores = sorted(os.sched_getaffinity(0))
    placed = [os.sched_getaffinity(pid) for pid in pair.children()]
    assert all(len(affinity) == 1 for affinity in placed)
    assert sorted(map(min, placed)) == sorted(cores[slot % len(cores)] for slot in range(2))


def test_rolling_replacement_loses_nothing(pair: Pair) -> None:
    before, old = pair.scrape(), pair.children()
    _, body = pair.server.get(f"/inference?{GOLDEN}")
    save(pair.model.with_name("new.pt"), mlp(4, 16, 2))
    pair.model.with_name("new.pt").replace(pair.model)

    def reload() -> None:
        pair.signal(signal.SIGHUP)
        wait_for_log(pair.server, "reload: done")

    load = under_load(pair.server, reload)
    check_all_answered(load)
    after = pair.scrape()
    assert after["cartpole_workers", ()] == 2  # the old workers may still be ending
    assert requests(after) - requests(before) == load.answered + 1
    never_back(before, after)
    wait_until(lambda: len(pair.children()) == 2)
    assert not old & pair.children()
    assert load.bodies == {body, pair.server.get(f"/inference?{GOLDEN}")[1]}
    assert len(load.bodies) == 2  # the old policy's answer and the new one's


def test_one_worker_takes_a_new_policy_too(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    with serving("--model", str(model)) as server:
        before = server.get(f"/inference?{GOLDEN}")
        model.write_bytes(b"nonsense")
        server.process.send_signal(signal.SIGHUP)
        wait_for_log(server, "reload rejected")
        assert server.get(f"/inference?{GOLDEN}") == before
        model.unlink()
        os.mkfifo(model)
        server.process.send_signal(signal.SIGHUP)
        wait_for_log(server, f"policy: model {model}: not a regular file")
        assert server.get(f"/inference?{GOLDEN}") == before
        save(tmp_path / "new.pt", mlp(4, 16, 2))
        (tmp_path / "new.pt").replace(model)

        def reload() -> None:
            server.process.send_signal(signal.SIGHUP)
            wait_for_log(server, "reload: now serving")

        load = under_load(server, reload)
        check_all_answered(load)
        assert len(load.bodies) == 2
        log_of(server)


def test_one_of_two_instances_on_a_port_can_stop() -> None:
    with serving("--reuse-port") as first, serving("--reuse-port", port=first.port) as second:
        assert second.process.stderr
        assert f":{first.port}: " in second.process.stderr.readline()  # the second instance serves

        def stop() -> None:
            second.process.terminate()
            assert second.process.wait(timeout=30) == 0

        check_all_answered(under_load(first, stop))


def test_a_killed_worker_is_replaced(pair: Pair) -> None:
    before, restarts, old = requests(pair.scrape()), pair.restarts(), pair.children()
    victim = min(old)

    def kill() -> None:
        os.kill(victim, signal.SIGKILL)
        wait_for_log(pair.server, f"worker {victim} ended by SIGKILL; replacing it")

    load = under_load(pair.server, kill)
    # Requests in flight on the killed worker's connections may be lost, at most one on each.
    assert load.lost + load.retried <= 20
    assert load.other == []
    assert load.answered + load.lost == load.sent
    wait_for_workers(pair.server)
    assert pair.restarts() == restarts + 1
    assert pair.children() - old == pair.children() - {max(old)}
    counted = requests(pair.scrape()) - before
    assert load.answered <= counted <= load.answered + load.lost + load.retried


def test_a_hung_worker_is_replaced(pair: Pair) -> None:
    restarts, (hung, other) = pair.restarts(), sorted(pair.children())
    os.kill(hung, signal.SIGSTOP)
    wait_for_log(pair.server, f"worker {hung} did not respond for 5 s and was killed; replacing it")
    wait_until(lambda: len(pair.children() - {hung}) == 2)
    wait_for_workers(pair.server)
    assert other in pair.children()
    assert pair.restarts() == restarts + 1


async def wait_for_more(seen: list[Samples], number: int = 10) -> None:
    enough = len(seen) + number
    while len(seen) < enough:
        await asyncio.sleep(0.01)


def test_counters_never_go_back(pair: Pair) -> None:
    load, seen = Load(pair.server.port, 500), [pair.scrape()]
    lost: list[Exception] = []

    async def watch() -> None:
        while True:
            answered = load.answered
            try:
                seen.append(await asyncio.to_thread(pair.scrape))
            except (OSError, http.client.HTTPException) as error:
                lost.append(error)
                continue
            assert requests(seen[-1]) - requests(seen[0]) >= answered
            never_back(seen[-2], seen[-1])
            await asyncio.sleep(0.02)

    async def run() -> None:
        watching = asyncio.create_task(watch())
        loading = asyncio.create_task(load.run(120))
        await wait_for_more(seen)
        pair.signal(signal.SIGHUP)
        await asyncio.to_thread(wait_for_log, pair.server, "reload: done")
        os.kill(max(pair.children()), signal.SIGKILL)
        await asyncio.to_thread(wait_for_log, pair.server, "ended by SIGKILL; replacing it")
        await wait_for_more(seen)
        load.stop = True
        await loading
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching

    asyncio.run(run())
    assert len(lost) <= 1  # the scrape that the killed worker was answering, if there was one
    assert load.other == []
    wait_for_workers(pair.server)
    assert requests(pair.scrape()) - requests(seen[0]) >= load.answered


def never_back(before: Samples, after: Samples) -> None:
    for sample, value in before.items():
        if sample[0].startswith("cartpole_") and sample[0].endswith(
            ("_total", "_bucket", "_count")
        ):
            assert after[sample] >= value, sample
