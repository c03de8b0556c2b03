"""How the service ends, sleeps and logs."""

import signal
import time

import pytest

from bench.machine import cpu_seconds
from bench.server import serving
from tests.conftest import GOLDEN
from tests.test_fastpath import answers
from tests.test_faults import REQUEST, connect, read_all


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_stops_after_so_many_requests(http: str) -> None:
    with serving("--http", http, "--limit-requests", "3") as server:
        for _ in range(3):
            assert server.get(f"/inference?{GOLDEN}")[0] == 200
        assert server.process.wait(timeout=20) == 0


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_answers_in_flight_are_written_before_the_end(http: str) -> None:
    with serving("--http", http) as server, connect(server) as client:
        server.get("/health/ready")
        client.sendall(REQUEST * 200)
        server.process.send_signal(signal.SIGTERM)
        received = read_all(client)
        assert server.process.wait(timeout=20) == 0
    found = answers(received)
    assert {status for status, _ in found} == {b"200"}
    assert received.endswith(b"}")


def test_busy_polling_sleeps_when_nothing_comes() -> None:
    with serving("--busy-poll") as server:
        pid = server.process.pid
        with connect(server) as client:
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
            before = cpu_seconds(pid)
            time.sleep(0.5)
            assert cpu_seconds(pid) > before  # it turns
            time.sleep(2.5)
            before = cpu_seconds(pid)
            time.sleep(1)
            assert cpu_seconds(pid) - before < 0.5  # it sleeps, with the connection open
            client.sendall(REQUEST)
            assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_the_access_log_goes_the_slow_way() -> None:
    with serving("--access-log") as server:
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        server.process.terminate()
        assert server.process.stderr
        assert f"GET /inference?{GOLDEN} 200" in server.process.stderr.read()
