"""Conformance with RFC 9110 and 9112, in both modes: one row per requirement."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from bench.server import Server, serving
from tests.support.clients import connect, read_all
from tests.support.conformance import ACCEPTED, CHUNKED, GOOD, REJECTED, get, head
from tests.support.memory import statuses
from tests.support.paths import GOLDEN, ROOT


@pytest.fixture(scope="module", params=["fast", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--http", request.param, "--log-level", "error") as running:
        yield running


@pytest.mark.parametrize(("section", "sent", "status"), REJECTED, ids=[row[0] for row in REJECTED])
def test_rejected(server: Server, section: str, sent: bytes, status: int) -> None:
    with connect(server) as client:
        with suppress(OSError):  # the server may have closed already
            client.sendall(sent)
        received = read_all(client)  # returns only where the connection is closed
    assert statuses(received) == [status]
    assert b"\r\nconnection: close\r\n" in received
    assert re.search(rb'\r\n\r\n\{"error":"[^"]+"\}$', received)
    assert server.get(f"/inference?{GOLDEN}")[0] == 200


@pytest.mark.parametrize(("section", "sent", "status"), ACCEPTED, ids=[row[0] for row in ACCEPTED])
def test_accepted(server: Server, section: str, sent: bytes, status: int) -> None:
    with connect(server) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert statuses(read_all(client)) == [status]


def test_requests_before_a_malformed_one_are_answered(server: Server) -> None:
    for bad in (b"nonsense\r\n\r\n", get(), head(b"GET / HTTP/1.2"), head(b"GET * HTTP/1.1")):
        with connect(server) as client:
            client.sendall(GOOD * 3 + bad + GOOD)
            assert statuses(read_all(client))[:3] == [200] * 3
        with connect(server) as client:
            client.sendall(GOOD * 3 + bad + GOOD)
            assert statuses(read_all(client))[3:][0] in (400, 505)


def test_100_continue_only_where_it_is_asked_and_known(server: Server) -> None:
    for version in ("1.0", "1.1"):
        with connect(server) as client:
            client.sendall(
                f"POST /metrics HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\n"
                "Content-Length: 3\r\n\r\n".encode()
            )
            client.shutdown(socket.SHUT_WR)
            assert b"100 Continue" not in read_all(client)  # this route reads no body


@pytest.mark.parametrize(
    ("lines", "rest", "status"),
    [
        ((b"Transfer-Encoding: chunked",), b"z\r\n", 400),
        ((b"Content-Length: 2000000",), b"", 413),
        ((b"Content-Length: 01",), b"", 400),
        ((b"Host: b",), b"", 400),
    ],
)
def test_a_refused_head_request_gets_no_body(
    server: Server, lines: tuple[bytes, ...], rest: bytes, status: int
) -> None:
    """RFC 9110, 9.3.2. A malformed request behind a HEAD request gets a body."""
    with connect(server) as client:
        client.sendall(head(b"HEAD /inference HTTP/1.1", *lines) + rest)
        received = read_all(client)
    assert statuses(received) == [status]
    assert received.endswith(b"\r\nconnection: close\r\n\r\n")
    with connect(server) as client:
        client.sendall(head(b"HEAD /health/live HTTP/1.1") + b"nonsense\r\n\r\n")
        received = read_all(client)
    assert statuses(received) == [200, 400]
    assert received.endswith(b'{"error":"the request is not valid HTTP"}')


def test_the_end_of_sending_within_a_body(server: Server) -> None:
    for begun in (CHUNKED + b"5\r\nhel", head(b"GET / HTTP/1.1", b"Content-Length: 5") + b"hel"):
        with connect(server) as client:
            client.sendall(GOOD + begun)
            client.shutdown(socket.SHUT_WR)
            assert statuses(read_all(client)) == [200]


def test_one_answer_however_a_bad_body_arrives(server: Server) -> None:
    for pieces in ((CHUNKED, b"z\r\n"), (CHUNKED + b"1\r\na\r\n", b"-1\r\n", GOOD)):
        with connect(server) as client:
            client.sendall(GOOD)
            received = client.recv(4096)
            for piece in pieces:
                client.sendall(piece)
                time.sleep(0.05)  # so that the server reads each piece on its own, as a rule
            received += read_all(client)
            assert statuses(received) == [200, 400]


def test_100_continue_is_waited_for_in_vain_but_not_for_ever(server: Server) -> None:
    with connect(server) as client:  # as curl does: it waits before it sends the body
        client.sendall(head(b"POST /metrics HTTP/1.1", b"Content-Length: 3",
                            b"Expect: 100-continue"))  # fmt: skip
        received = read_all(client)
    assert statuses(received) == [405]
    assert b"\r\nconnection: close\r\n" in received


def test_an_endless_header_is_cut_off_early(server: Server) -> None:
    with connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 65536)
        assert statuses(client.recv(65536)) == [431]  # while the client is still sending
        with suppress(OSError):  # the server discards the rest
            for _ in range(128):
                client.send(b"a" * 65536)
    assert server.get(f"/inference?{GOLDEN}")[0] == 200


def test_answers_say_nothing_of_the_server(server: Server) -> None:
    for sent in (GOOD, head(b"GET /none HTTP/1.1"), b"nonsense\r\n\r\n", get(b"Host:")):
        with connect(server) as client:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)
            received = read_all(client).lower()
        assert b"\r\nx-content-type-options: nosniff\r\n" in received
        assert b"\r\nserver:" not in received
        for word in (b"uvicorn", b"python", b"starlette", str(ROOT).encode(), b"traceback"):
            assert word not in received
