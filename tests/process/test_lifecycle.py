"""The service ends cleanly, sleeps when idle, and logs."""

import os
import signal
import time

import pytest

from bench.machine import cpu_seconds
from bench.server import serving
from tests.support.clients import REQUEST, connect, read_all
from tests.support.memory import answers
from tests.support.paths import GOLDEN
from tests.support.waiting import wait_until


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_stops_after_so_many_requests(http: str) -> None:
    with serving("--http", http, "--limit-requests", "3") as server:
        for _ in range(3):
            assert server.get(f"/inference?{GOLDEN}")[0] == 200
        assert server.process.wait(timeout=20) == 0
        assert server.process.stderr
        _, reached, stopped = server.process.stderr.read().splitlines()
    assert reached.endswith("] --limit-requests 3 is reached: stopping")
    assert stopped.endswith("] stopped after 3 requests")


def test_a_pinned_process_runs_on_one_core() -> None:
    with serving("--pin") as server:
        assert os.sched_getaffinity(server.process.pid) == {min(os.sched_getaffinity(0))}


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_answers_in_flight_are_written_before_the_end(http: str) -> None:
    """Every request that the service counts has a response; the last one closes the connection."""
    with serving("--http", http) as server, connect(server) as client:
        client.sendall(REQUEST * 2000)
        received = client.recv(1)
        server.process.send_signal(signal.SIGTERM)
        received += read_all(client)
        assert server.process.wait(timeout=20) == 0
        assert server.process.stderr
        log = server.process.stderr.read()
    found = answers(received)
    assert {status for status, _ in found} == {b"200"}
    assert log.endswith(f" stopped after {len(found)} requests\n")
    heads = received.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert len(heads) == len(found)
    closing = [index for index, head in enumerate(heads) if b"connection: close\r\n" in head]
    assert closing in ([], [len(found) - 1])
    assert received.endswith(b"}")


def test_polling_sleeps_when_nothing_comes() -> None:
    with serving("--poll", "always") as server, connect(server) as client:
        pid = server.process.pid

        def turns(seconds: float) -> bool:
            """Whether the service uses most of a core during these seconds."""
            before, started = cpu_seconds(pid), time.monotonic()
            time.sleep(seconds)
            return cpu_seconds(pid) - before > 0.2 * (time.monotonic() - started)

        for _ in range(2):
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            assert turns(0.2)
            wait_until(lambda: not turns(0.2))  # it sleeps, with the connection open


def test_the_access_log_goes_the_slow_way() -> None:
    with serving("--access-log") as server:
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        server.process.terminate()
        assert server.process.stderr
        assert f"GET /inference?{GOLDEN} 200" in server.process.stderr.read()
