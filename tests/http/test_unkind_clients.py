"""Silent and unfinished clients at the connection limit and at the end of the service."""

import socket
import ssl
import time
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.server import serving
from cartpole.http.connections import HEALTH_RESERVE
from tests.support.clients import REQUEST, connect
from tests.support.metrics import scrape
from tests.support.processes import descriptors_of_connections
from tests.support.waiting import wait_until


@pytest.mark.parametrize("kind", ["fast", "asgi", "fast-tls", "asgi-tls"])
def test_silent_connections_past_the_limit(kind: str, certificate: Path) -> None:
    http, _, tls = kind.partition("-")
    flags = ("--http", http, "--limit-connections", "5")
    with serving(*flags, tls=certificate if tls else None) as server:
        with ExitStack() as stack:
            for _ in range(300):  # in TLS, without a handshake
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            wait_until(lambda: descriptors_of_connections(server) <= 5 + HEALTH_RESERVE)
            wait_until(lambda: descriptors_of_connections(server) <= 5)

            def health() -> bool:
                with suppress(OSError):
                    return server.get("/health/live")[0] == 200
                return False

            wait_until(health)
        wait_until(lambda: server.get("/metrics")[0] == 200)
        samples = scrape(server)
    counted = samples["cartpole_refusals_total", (("reason", "too many connections"),)]
    assert counted >= 300 - 5 - HEALTH_RESERVE


@pytest.mark.parametrize("kind", ["fast", "asgi", "fast-tls", "asgi-tls"])
def test_the_end_waits_for_no_unkind_client(kind: str, certificate: Path) -> None:
    http, _, tls = kind.partition("-")
    folder = certificate if tls else None
    with serving("--http", http, tls=folder) as server, ExitStack() as stack:
        body = b"POST /inference HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"
        clients = [stack.enter_context(connect(server, receive_bytes=2048)) for _ in range(6)]
        stages = (b"", REQUEST, REQUEST[:20], body, REQUEST * 30)
        for client, sent in zip(clients, stages, strict=False):
            client.sendall(sent)
        clients[5].setblocking(False)  # it reads nothing, and asks until it can't
        blocked = time.monotonic()
        while time.monotonic() - blocked < 1:
            try:
                clients[5].send(REQUEST * 100)
                blocked = time.monotonic()
            except (BlockingIOError, ssl.SSLWantWriteError):
                time.sleep(0.05)
        for sent in (b"", b"\x16\x03\x01\x02"):  # in TLS, a handshake that does not end
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(sent)
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        seconds = time.monotonic() - started
        assert server.process.stderr
        log = server.process.stderr.read()
    assert seconds < 20  # of --shutdown-timeout's 30
    assert " ERROR " not in log and "Traceback" not in log
