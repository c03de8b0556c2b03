"""Stopping a service: draining, second signals, --limit-requests, a stop during the start."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from functools import partial

import pytest

from bench.machine import descendants
from bench.server import Server, serving
from tests.support.clients import REQUEST, connect, read_all
from tests.support.load import RATE, Load
from tests.support.memory import statuses
from tests.support.paths import GOLDEN
from tests.support.waiting import wait_for_workers, wait_until


def test_several_workers_stop_after_so_many_requests_of_all() -> None:
    with serving("--workers", "2", "--limit-requests", "400") as server:
        wait_for_workers(server)
        load = Load(server.port, RATE)

        async def run() -> None:
            loading = asyncio.create_task(load.run(120))
            assert await asyncio.to_thread(server.process.wait, 60) == 0
            load.stop = True
            await loading

        asyncio.run(run())
        assert server.process.stderr
        log = server.process.stderr.read()
    assert log.count("] --limit-requests 400 is reached: stopping\n") == 1
    assert " ERROR " not in log
    shares = [int(line.split()[-2]) for line in log.splitlines() if "stopped after" in line]
    assert len(shares) == 2
    assert sum(shares) >= max(400, load.answered)
    assert load.other == []


def wait_until_draining(server: Server) -> None:
    wait_until(lambda: server.get("/health/ready")[0] == 503)
    assert server.get(f"/inference?{GOLDEN}")[0] == 200


def test_draining_is_told_and_still_answers() -> None:
    with serving("--drain-seconds", "2") as server:
        assert server.get("/health/ready")[0] == 200
        server.process.send_signal(signal.SIGTERM)
        wait_until_draining(server)
        assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_clients_that_wait_to_be_accepted_are_answered(http: str) -> None:
    """The draining ends while the process is suspended, so that it goes on with the stop."""
    with serving("--http", http, "--drain-seconds", "1") as server, ExitStack() as stack:
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: server.get("/health/ready")[0] == 503)
        server.process.send_signal(signal.SIGSTOP)
        clients = [stack.enter_context(connect(server)) for _ in range(50)]
        for client in clients:
            client.sendall(REQUEST)
        time.sleep(1.5)
        server.process.send_signal(signal.SIGCONT)
        assert [statuses(read_all(client)) for client in clients] == [[200]] * len(clients)
        assert server.process.wait(timeout=30) == 0


@pytest.mark.parametrize(
    ("second", "workers"), [(signal.SIGTERM, 1), (signal.SIGINT, 1), (signal.SIGTERM, 2)]
)
def test_a_second_signal_ends_it(second: signal.Signals, workers: int) -> None:
    with serving("--drain-seconds", "600", "--workers", str(workers)) as server:
        wait_for_workers(server, workers)
        server.process.send_signal(signal.SIGTERM)
        wait_until_draining(server)
        server.process.send_signal(second)
        assert server.process.wait(timeout=30) == 0


def test_stops_in_the_middle_of_a_start() -> None:
    for wait in (0.0, 1.0):
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
