"""Unlucky and unkind clients, against the real service, in both ways of serving."""

import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.server import Server, serving
from tests.support.clients import REQUEST, connect, half_close, read_all
from tests.support.corpus import request
from tests.support.memory import answers
from tests.support.paths import GOLDEN

FLAGS = ("--limit-head", "4096", "--limit-body", "1000", "--head-timeout", "1")


@pytest.fixture(scope="module", params=["fast", "asgi", "fast-tls", "asgi-tls"])
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Server]:
    http, _, tls = request.param.partition("-")
    with serving("--http", http, *FLAGS, tls=certificate if tls else None) as running:
        yield running


def exchange(server: Server, sent: bytes) -> bytes:
    """Send in one write, half-close, and read until the server closes."""
    with connect(server) as client:
        client.sendall(sent)
        half_close(client)
        return read_all(client)


@pytest.fixture(autouse=True)
def serves_on(server: Server) -> Iterator[None]:
    yield
    assert server.get(f"/inference?{GOLDEN}")[0] == 200
    assert server.process.poll() is None


def test_half_close_after_sending(server: Server) -> None:
    assert exchange(server, REQUEST).startswith(b"HTTP/1.1 200 OK")
    assert len(answers(exchange(server, REQUEST * 3))) == 3
    assert exchange(server, request(start="GET /health/ready?{} HTTP/1.1")).endswith(
        b'"outputs":"logits"}'
    )


def test_a_thousand_requests_in_one_write(server: Server) -> None:
    written = [request(GOLDEN.replace("=0", f"={number}", 1)) for number in range(1000)]
    with connect(server) as client:
        client.sendall(b"".join(written))
        received = b""
        while received.count(b"HTTP/1.1 200 OK") < 1000 or not received.endswith(b"}"):
            more = client.recv(65536)
            assert more, received[-500:]
            received += more
    bodies = [body for _, body in answers(received)]
    assert len(bodies) == 1000
    for number in (0, 1, 500, 999):
        target = f"/inference?{GOLDEN.replace('=0', f'={number}', 1)}"
        assert server.get(target) == (200, bodies[number])


def test_good_requests_are_answered_before_a_bad_one_is_refused(server: Server) -> None:
    received = exchange(server, REQUEST + b"GET / nonsense\r\n\r\n" + REQUEST)
    assert [status for status, _ in answers(received)] == [b"200", b"400"]
    assert received.endswith(b'{"error":"the request is not valid HTTP"}')
    assert b"x-content-type-options: nosniff\r\ncontent-length: 41\r\nconnection: close" in received


@pytest.mark.parametrize(
    "head",
    [
        request(GOLDEN + "&x=" + "y" * 5000),
        request(GOLDEN, "X: " + "y" * 5000),
        request(GOLDEN, *["X: y"] * 1000),
        REQUEST[:-2] + b"X: " + b"y" * 300_000,
    ],
)
def test_large_heads(server: Server, head: bytes) -> None:
    with connect(server) as client:
        client.sendall(head)
        assert read_all(client).startswith(b"HTTP/1.1 431 ")


def test_large_bodies(server: Server) -> None:
    with connect(server) as client:
        client.sendall(request(GOLDEN, "Content-Length: 100000") + b"x" * 100_000)
        received = read_all(client)
    assert received.startswith(b"HTTP/1.1 413 ")
    assert received.endswith(b'{"error":"the request body is too large"}')


def test_slow_heads(server: Server) -> None:
    started = time.monotonic()
    with connect(server) as client:
        client.sendall(REQUEST[:40])
        assert read_all(client).startswith(b"HTTP/1.1 408 ")
    assert 1 <= time.monotonic() - started < 15


def test_resets_at_every_stage(server: Server) -> None:
    for sent in (b"", REQUEST[:20], REQUEST, REQUEST * 50, REQUEST + REQUEST[:30]):
        for _ in range(5):
            client = connect(server)
            client.sendall(sent)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
    assert server.get("/health/live")[0] == 200


def test_expectations_without_a_body_are_met_by_the_answer(server: Server) -> None:
    assert exchange(server, request(GOLDEN, "Expect: 100-continue")).startswith(b"HTTP/1.1 200 OK")
