"""Several workers, replacement and stops, under a load that counts what becomes of each request."""

import asyncio
import http.client
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from bench.machine import descendants
from bench.server import Server, serving
from cartpole.settings import BUNDLED_MODEL
from tests.conftest import GOLDEN
from tests.load import Load
from tests.test_faults import connect
from tests.test_metrics import Samples, requests, scrape
from tests.test_policy import mlp, save

RATE, SECONDS = 2000, 3.0


def children(server: Server) -> list[int]:
    """The workers; multiprocessing's own helper is none."""
    pid = server.process.pid
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def wait_for_workers(server: Server, number: int = 2) -> None:
    deadline = time.monotonic() + 60
    while scrape(server)["cartpole_workers", ()] < number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def two(*flags: str) -> Iterator[Server]:
    with serving("--workers", "2", *flags) as server:
        wait_for_workers(server)
        yield server


def under_load(server: Server, pid: int = 0, number: int = 0, until: str = "") -> Load:
    """A load; after a second a signal to a process; it ends some time after the log says so."""
    load = Load(server.port, RATE)

    async def run() -> None:
        loading = asyncio.create_task(load.run(60))
        await asyncio.sleep(1)
        if pid:
            os.kill(pid, number)
        if until:
            await asyncio.to_thread(wait_for_log, server, until)
        await asyncio.sleep(SECONDS)
        load.stop = True
        await loading

    asyncio.run(run())
    assert load.sent > RATE
    return load


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_until_taken(pid: int, number: int) -> None:
    """Until the process has taken the signal, so that another of that number is a second one."""

    def taken() -> bool:
        status = Path(f"/proc/{pid}/status").read_text()
        pending = [int(mask, 16) for mask in re.findall(r"^(?:Shd|Sig)Pnd:\s*(\w+)$", status, re.M)]
        return not any(mask & 1 << number - 1 for mask in pending)

    wait_until(taken)


def wait_for_log(server: Server, text: str) -> None:
    assert server.process.stderr
    for line in server.process.stderr:
        if text in line:
            return
    raise AssertionError(f"the log ends without {text!r}")


def check_all_answered(load: Load) -> None:
    # A client may send on a kept connection in the very moment in which it is closed as idle.
    assert load.retried <= 2
    assert (load.lost, load.other) == (0, [])
    assert load.answered == load.sent


def log_of(server: Server) -> str:
    """What it has written to standard error, once it has been stopped."""
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    return log


def test_both_workers_answer_and_stop_cleanly() -> None:
    with two() as server:
        load = under_load(server)
        check_all_answered(load)
        assert len(load.bodies) == 1
        counted = scrape(server)
        assert requests(counted) == load.answered
        log = log_of(server)
    assert log.count(" serves ") == 2
    assert log.count("stopped after") == 2
    assert "Traceback" not in log
    shares = [int(line.split()[-2]) for line in log.splitlines() if "stopped after" in line]
    assert min(shares) > 0


def test_rolling_replacement_loses_nothing(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    with two("--model", str(model)) as server:
        before, old = scrape(server), children(server)
        save(tmp_path / "new.pt", mlp(4, 16, 2))
        (tmp_path / "new.pt").replace(model)
        load = under_load(server, server.process.pid, signal.SIGHUP, "reload: done")
        check_all_answered(load)
        assert not set(old) & set(children(server))
        after = scrape(server)
        assert requests(after) == load.answered
        never_back(before, after)
        status, body = server.get(f"/inference?{GOLDEN}")
        assert status == 200
        assert len(load.bodies | {body}) == 2  # the old policy's answer and the new one's
        log_of(server)


def test_one_worker_takes_a_new_policy_too(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    with serving("--model", str(model)) as server:
        save(tmp_path / "new.pt", mlp(4, 16, 2))
        (tmp_path / "new.pt").replace(model)
        load = under_load(server, server.process.pid, signal.SIGHUP, "reload: serves")
        check_all_answered(load)
        assert len(load.bodies) == 2
        log_of(server)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_bad_new_model_is_refused(tmp_path: Path, workers: str) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    with serving("--workers", workers, "--model", str(model)) as server:
        if workers == "2":
            wait_for_workers(server)
        before, old = server.get(f"/inference?{GOLDEN}"), children(server)
        model.write_bytes(b"nonsense")
        server.process.send_signal(signal.SIGHUP)
        assert server.process.stderr
        for line in server.process.stderr:
            if "reload refused" in line:
                break
        assert server.get(f"/inference?{GOLDEN}") == before
        assert set(old) <= set(children(server))


def test_one_of_two_instances_on_a_port_can_stop() -> None:
    with serving("--reuse-port") as first, serving("--reuse-port", port=first.port) as second:
        assert second.process.stderr
        assert f":{first.port} " in second.process.stderr.readline()  # it serves, not the first
        load = under_load(first, second.process.pid, signal.SIGTERM)
        check_all_answered(load)
        assert second.process.wait(timeout=30) == 0


def test_a_killed_worker_is_replaced() -> None:
    with two() as server:
        victim = children(server)[0]
        load = under_load(
            server, victim, signal.SIGKILL, f"worker {victim} ended by SIGKILL: replaced"
        )
        # What was in flight on its connections may be lost, at most one request on each.
        assert load.lost + load.retried <= 20
        assert load.other == []
        assert load.answered + load.lost == load.sent
        wait_for_workers(server)
        counted = scrape(server)
        assert counted["cartpole_worker_restarts_total", ()] == 1
        assert load.answered <= requests(counted) <= load.answered + load.lost + load.retried
        log_of(server)


def test_counters_never_go_back() -> None:
    with two() as server:
        load, seen = Load(server.port, 500), [scrape(server)]
        lost: list[Exception] = []

        async def run() -> None:
            async def watch() -> None:
                while True:
                    answered = load.answered
                    try:
                        seen.append(await asyncio.to_thread(scrape, server))
                    except (OSError, http.client.HTTPException) as error:
                        lost.append(error)
                        continue
                    assert requests(seen[-1]) >= answered
                    never_back(seen[-2], seen[-1])
                    await asyncio.sleep(0.05)

            loop = asyncio.get_running_loop()
            watching = asyncio.create_task(watch())
            loop.call_later(0.5, os.kill, server.process.pid, signal.SIGHUP)
            loading = asyncio.create_task(load.run(60))
            await asyncio.to_thread(wait_for_log, server, "reload: done")
            os.kill(children(server)[1], signal.SIGKILL)
            await asyncio.to_thread(wait_for_log, server, "ended by SIGKILL: replaced")
            await asyncio.sleep(1)
            load.stop = True
            await loading
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

        asyncio.run(run())
        assert len(seen) > 20
        assert len(lost) <= 1  # the scrape that the killed worker was answering, if there was one
        assert load.other == []
        wait_for_workers(server)
        assert requests(scrape(server)) >= load.answered


def never_back(before: Samples, after: Samples) -> None:
    for sample, value in before.items():
        if sample[0].startswith("cartpole_") and sample[0].endswith(
            ("_total", "_bucket", "_count")
        ):
            assert after[sample] >= value, sample


def test_draining_is_told_and_still_answers() -> None:
    with serving("--drain-seconds", "2") as server, connect(server) as client:
        client.sendall(b"GET /health/ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
        server.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + 2
        while server.get("/health/ready")[0] != 503:
            assert time.monotonic() < deadline
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_second_signal_ends_it(second: signal.Signals, workers: str) -> None:
    with serving("--drain-seconds", "600", "--workers", workers) as server:
        if workers == "2":
            wait_for_workers(server)
        server.process.send_signal(signal.SIGTERM)
        wait_until_taken(server.process.pid, signal.SIGTERM)
        server.process.send_signal(second)
        assert server.process.wait(timeout=30) == 0


def test_workers_do_not_outlive_their_supervisor() -> None:
    with two() as server:
        workers = children(server)
        server.process.kill()
        server.process.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in workers):
            assert time.monotonic() < deadline
            time.sleep(0.1)


def test_pinned_workers_have_a_core_each() -> None:
    with two("--pin") as server:
        cores = sorted(os.sched_getaffinity(0))
        placed = [os.sched_getaffinity(pid) for pid in children(server)]
    assert sorted(map(min, placed)) == sorted(cores[slot % len(cores)] for slot in range(2))
    assert all(len(affinity) == 1 for affinity in placed)


def test_a_worker_that_can_not_start_again_does_not_end_the_others(tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(BUNDLED_MODEL, model)
    with two("--model", str(model)) as server:
        model.write_bytes(b"nonsense")
        os.kill(children(server)[0], signal.SIGKILL)
        wait_for_log(server, "again in 1 s")
        for _ in range(20):
            assert server.get(f"/inference?{GOLDEN}")[0] == 200
        shutil.copy(BUNDLED_MODEL, model)
        wait_for_workers(server)


def test_stops_in_the_middle_of_a_start_and_of_a_reload() -> None:
    for wait in (0.0, 0.5, 1.5):
        process = subprocess.Popen(
            [sys.executable, "-m", "cartpole.serve", "--port", "0", "--workers", "2"],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        wait_until(partial(descendants, process.pid))
        time.sleep(wait)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, log = process.communicate(timeout=60)
        assert "Traceback" not in log
        assert process.returncode == 0
    with two() as server:
        server.process.send_signal(signal.SIGHUP)
        wait_for_log(server, "reload: replacing")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(timeout=20) == 0
