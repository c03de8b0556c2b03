"""HTTP/1.1 by the book: what RFC 9110 and 9112 ask of a server, one row each, in both modes."""

import re
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from bench.server import Server, serving
from tests.support.clients import connect, read_all
from tests.support.memory import statuses
from tests.support.paths import GOLDEN, ROOT

GOOD = f"GET /inference?{GOLDEN} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
CHUNKED = b"POST /inference HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", params=["fast", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--http", request.param, "--log-level", "error") as running:
        yield running


def get(*lines: bytes, target: bytes = f"/inference?{GOLDEN}".encode(), rest: bytes = b"") -> bytes:
    return b"\r\n".join([b"GET " + target + b" HTTP/1.1", *lines, b"", rest])


def head(start: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([start, b"Host: a", *lines, b"", b""])


# (section, what is sent, the status that must come, after which the connection must end)
REFUSED = [
    ("9112-3.2 no Host", get(), 400),
    ("9112-3.2 two Hosts", get(b"Host: a", b"Host: a"), 400),
    ("9112-3.2 two Hosts that differ", get(b"Host: a", b"Host: b"), 400),
    ("9110-7.2 empty Host", get(b"Host:"), 400),
    ("9110-7.2 joined Hosts", get(b"Host: a, b"), 400),
    ("9110-4.2.4 userinfo", get(b"Host: u@a"), 400),
    ("9110-7.2 Host with a path", get(b"Host: a/b"), 400),
    ("9110-7.2 Host with a space", get(b"Host: a b"), 400),
    ("9110-7.2 Host with a bad port", get(b"Host: a:b"), 400),
    ("9112-3.2 HTTP/1.0, two Hosts", b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    ("9112-3.2.4 GET *", head(b"GET * HTTP/1.1"), 400),
    ("9112-3.2.1 no slash", head(b"GET inference HTTP/1.1"), 400),
    ("9112-3.2.2 absolute, userinfo", head(b"GET http://u@a/inference HTTP/1.1"), 400),
    ("9112-3.2 fragment", head(b"GET /inference#f HTTP/1.1"), 400),
    ("9112-3.2 space in the target", head(b"GET /in ference HTTP/1.1"), 400),
    ("9112-3.2 quote in the target", head(b'GET /inference?a="b" HTTP/1.1'), 400),
    ("9112-3.2 less-than in the target", head(b"GET /inference?<a> HTTP/1.1"), 400),
    ("9112-3.2 byte above ASCII", head(b"GET /inference?\xc3\xa4 HTTP/1.1"), 400),
    ("9112-3.2 control byte", head(b"GET /infer\x01ence HTTP/1.1"), 400),
    ("9112-3 DEL", head(b"GET /infer\x7fence HTTP/1.1"), 400),
    ("9112-2.3 HTTP/0.9", b"GET /inference\r\n\r\n", 505),
    ("9112-2.3 HTTP/1.2", head(b"GET / HTTP/1.2"), 505),
    ("9112-2.3 HTTP/2.0", head(b"GET / HTTP/2.0"), 505),
    ("9112-2.3 HTTP/3, no minor version", head(b"GET / HTTP/3"), 400),
    ("9112-2.3 http/1.1", head(b"GET / http/1.1"), 400),
    ("9113-3.4 preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("9110-9.1 lower-case method", head(b"get / HTTP/1.1"), 400),
    ("9110-9.1 no token as method", head(b"G@T / HTTP/1.1"), 400),
    ("9110-9.3.6 CONNECT", b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    ("9112-2.2 bare LF", b"GET / HTTP/1.1\nHost: a\n\n", 400),
    ("9112-2.2 bare CR in a field", b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400),
    ("9112-2.2 space before the first field", b"GET / HTTP/1.1\r\n X: b\r\nHost: a\r\n\r\n", 400),
    ("9112-5.1 space before the colon", b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    ("9112-5.1 no name", get(b"Host: a", b": b"), 400),
    ("9112-5.1 no colon", get(b"Host: a", b"nothing"), 400),
    ("9110-5.1 no token as name", get(b"Host: a", b"X(: b"), 400),
    ("9112-5.2 obs-fold", get(b"Host: a", b"X: b", b" c"), 400),
    ("9110-5.5 NUL", get(b"Host: a", b"X: b\0c"), 400),
    ("9110-5.5 control byte", get(b"Host: a", b"X: b\x01c"), 400),
    ("9112-6.1 length and coding", get(b"Host: a", b"Content-Length: 5",
     b"Transfer-Encoding: chunked", rest=b"0\r\n\r\n"), 400),
    ("9112-6.1 coding and length", get(b"Host: a", b"Transfer-Encoding: chunked",
     b"Content-Length: 5", rest=b"0\r\n\r\n"), 400),
    ("9112-6.1 unknown coding before chunked", get(b"Host: a", b"Transfer-Encoding: gzip, chunked",
     rest=b"0\r\n\r\n"), 501),
    ("9112-6.3 chunked is not final", get(b"Host: a", b"Transfer-Encoding: chunked, gzip",
     rest=b"0\r\n\r\n"), 400),
    ("9112-7.1 chunked twice", get(b"Host: a", b"Transfer-Encoding: chunked, chunked",
     rest=b"0\r\n\r\n"), 400),
    ("9112-7.1 chunked on two lines", get(b"Host: a", b"Transfer-Encoding: chunked",
     b"Transfer-Encoding: chunked", rest=b"0\r\n\r\n"), 400),
    ("9112-6.1 chunked of HTTP/1.0",
     b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("9112-6.3 two lengths", get(b"Host: a", b"Content-Length: 1", b"Content-Length: 2"), 400),
    ("9112-6.3 the same length twice", get(b"Host: a", b"Content-Length: 1", b"Content-Length: 1",
     rest=b"x"), 400),
    ("9110-8.6 joined lengths", get(b"Host: a", b"Content-Length: 1, 1", rest=b"x"), 400),
    ("9110-8.6 signed length", get(b"Host: a", b"Content-Length: +1", rest=b"x"), 400),
    ("9110-8.6 negative length", get(b"Host: a", b"Content-Length: -1", rest=b"x"), 400),
    ("9110-8.6 hexadecimal length", get(b"Host: a", b"Content-Length: 0x1", rest=b"x"), 400),
    ("9110-8.6 length with a space in it", get(b"Host: a", b"Content-Length: 1 1"), 400),
    ("9110-8.6 padded length", get(b"Host: a", b"Content-Length: 01", rest=b"x"), 400),
    ("9110-8.6 empty length", get(b"Host: a", b"Content-Length:"), 400),
    ("9110-8.6 overlong length", get(b"Host: a", b"Content-Length: " + b"9" * 30), 400),
    ("9112-7.1 chunk size with 0x", CHUNKED + b"0x1\r\na\r\n0\r\n\r\n", 400),
    ("9112-7.1 negative chunk size", CHUNKED + b"-1\r\na\r\n0\r\n\r\n", 400),
    ("9112-7.1 chunk size with a space", CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    ("9112-7.1 overlong chunk size", CHUNKED + b"f" * 17 + b"\r\na\r\n0\r\n\r\n", 400),
    ("9112-7.1 bare LF after the size", CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    ("9112-7.1 chunk longer than its size", CHUNKED + b"1\r\nab\r\n0\r\n\r\n", 400),
    ("9112-7.1.1 junk in an extension", CHUNKED + b"1;a\x01\r\na\r\n0\r\n\r\n", 400),
    ("9112-7.1 bad chunk behind good ones", CHUNKED + b"1\r\na\r\n2\r\nabc\r\n0\r\n\r\n", 400),
    ("9112-7.1.2 bad trailer", CHUNKED + b"1\r\na\r\n0\r\nnothing\r\n\r\n", 400),
    ("9110-15.5.14 length of 2 MB", get(b"Host: a", b"Content-Length: 2000000"), 413),
    ("9110-15.5.14 chunk of 2 MB", CHUNKED + b"1e8480\r\n" + b"a" * 1_100_000, 413),
    ("9110-10.1.1 length of 2 MB, expecting", get(b"Host: a", b"Content-Length: 2000000",
     b"Expect: 100-continue"), 413),
    ("9110-10.1.1 unknown expectation", get(b"Host: a", b"Expect: a-pony"), 417),
    ("6585-5 value of 100 KB", get(b"Host: a", b"X: " + b"a" * 100_000), 431),
    ("6585-5 name of 100 KB", get(b"Host: a", b"a" * 100_000 + b": b"), 431),
    ("6585-5 10,000 fields", get(b"Host: a", *[b"a: b"] * 10_000), 431),
    ("6585-5 target of 100 KB", get(b"Host: a", target=b"/" + b"a" * 100_000), 431),
]  # fmt: skip

# (section, what is sent, the status that must come)
TAKEN = [
    ("9112-3.2 Host with a port", get(b"Host: a:3000"), 200),
    ("9112-3.2 Host of IPv6", get(b"Host: [::1]:3000"), 200),
    ("9112-3.2 white space around Host", get(b"Host: \t a \t"), 200),
    ("9112-3.2 HTTP/1.0 without Host", f"GET /inference?{GOLDEN} HTTP/1.0\r\n\r\n".encode(), 200),
    ("9112-3.2.2 absolute-form", get(b"Host: a", target=f"http://a/inference?{GOLDEN}".encode()),
     200),
    ("9112-3.2.2 absolute-form, empty path", get(b"Host: a", target=b"http://a"), 404),
    ("9112-3.2.2 absolute-form, query only", get(b"Host: a", target=b"http://a:80?x=1"), 404),
    ("9112-3.2.2 absolute-form, IPv6", get(b"Host: a", target=b"HTTPS://[::1]/health/live"), 200),
    ("9112-3.2.2 absolute-form, empty port", get(b"Host: a", target=b"http://a:/health/live"), 200),
    ("9112-3.2.2 absolute-form, sub-delims", get(b"Host: a", target=b"http://!$&'()*+;=%41/"), 404),
    ("9112-2.2 empty line before", b"\r\n" + GOOD, 200),
    ("9112-3 several spaces (MAY)", GOOD.replace(b" ", b"  ", 2), 200),
    ("9110-8.6 no body", get(b"Host: a", b"Content-Length: 0"), 200),
    ("9110-8.6 white space around a length", get(b"Host: a", b"Content-Length: \t 1 ", rest=b"x"),
     200),
    ("9110-5.1 names in any case", get(b"hOST: a"), 200),
    ("9110-8.6 a body with GET", get(b"Host: a", b"Content-Length: 3", rest=b"abc"), 200),
    ("9112-7.1 a chunked body with GET", get(b"Host: a", b"Transfer-Encoding: chunked",
     rest=b"3\r\nabc\r\n0\r\n\r\n"), 200),
    ("9112-7.1.1 chunk extensions", get(b"Host: a", b"Transfer-Encoding: chunked",
     rest=b'3;a=b;c="d"\r\nabc\r\n0\r\n\r\n'), 200),
    ("9112-7.1.2 trailers", get(b"Host: a", b"Transfer-Encoding: chunked",
     rest=b"3\r\nabc\r\n0\r\nX: y\r\n\r\n"), 200),
    ("9112-7 coding in any case", get(b"Host: a", b"Transfer-Encoding: CHUNKED",
     rest=b"0\r\n\r\n"), 200),
    ("9110-7.8 an upgrade is not taken", get(b"Host: a", b"Connection: Upgrade", b"Upgrade: x"),
     200),
    ("9110-9.3.7 OPTIONS *", head(b"OPTIONS * HTTP/1.1"), 204),
    ("9110-9.3.8 TRACE", head(b"TRACE / HTTP/1.1"), 404),
    ("9110-15.5.6 a method that is not allowed", head(b"DELETE /inference HTTP/1.1"), 405),
    ("9110-9.3.2 HEAD", head(b"HEAD /health/live HTTP/1.1"), 200),
]  # fmt: skip


@pytest.mark.parametrize(("section", "sent", "status"), REFUSED, ids=[row[0] for row in REFUSED])
def test_refused(server: Server, section: str, sent: bytes, status: int) -> None:
    with connect(server) as client:
        with suppress(OSError):  # it may have heard enough
            client.sendall(sent)
        received = read_all(client)  # returns only where the connection is closed
    assert statuses(received) == [status]
    assert b"\r\nconnection: close\r\n" in received
    assert re.search(rb'\r\n\r\n\{"error":"[^"]+"\}$', received)
    assert server.get(f"/inference?{GOLDEN}")[0] == 200


@pytest.mark.parametrize(("section", "sent", "status"), TAKEN, ids=[row[0] for row in TAKEN])
def test_taken(server: Server, section: str, sent: bytes, status: int) -> None:
    with connect(server) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        assert statuses(read_all(client)) == [status]


def test_what_was_asked_before_a_malformed_request_is_answered(server: Server) -> None:
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
                f"POST /inference HTTP/{version}\r\nHost: a\r\nExpect: 100-continue\r\n"
                "Content-Length: 3\r\n\r\n".encode()
            )
            client.shutdown(socket.SHUT_WR)
            assert b"100 Continue" not in read_all(client)  # nothing here reads a body


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
    """RFC 9110, 9.3.2. What is no request at all after it gets one."""
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
                time.sleep(0.05)  # each is a read of its own, as far as this can be had
            received += read_all(client)
            assert statuses(received) == [200, 400]


def test_100_continue_is_waited_for_in_vain_but_not_for_ever(server: Server) -> None:
    with connect(server) as client:  # as curl does: it sends nothing until it is answered
        client.sendall(head(b"POST /inference HTTP/1.1", b"Content-Length: 3",
                            b"Expect: 100-continue"))  # fmt: skip
        received = read_all(client)
    assert statuses(received) == [405]
    assert b"\r\nconnection: close\r\n" in received


def test_an_endless_header_is_cut_off_early(server: Server) -> None:
    with connect(server) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 65536)
        assert statuses(client.recv(65536)) == [431]  # though the client has not ended
        with suppress(OSError):  # what comes after is not kept
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
