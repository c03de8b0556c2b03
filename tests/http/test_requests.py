"""Requests that real clients and proxies send, over TCP, TLS and a Unix socket, in both modes."""

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.server import Server
from tests.support.clients import read_answer
from tests.support.corpus import USUAL, request
from tests.support.paths import GOLDEN
from tests.support.processes import log_of
from tests.support.transports import (
    KINDS,
    LAST,
    PAUSE_SECONDS,
    answers,
    ask,
    chunked,
    connect_narrow,
    cuts,
    post,
    receive,
    results,
    send,
    serving_over,
    statuses,
)
from tests.support.v2 import INFER, infer
from tests.support.waiting import wait_for_log

LIMIT_HEAD = 16_384  # bytes, the default
ROWS = b"[[0,0,-1,0],[1,-2.5,0.1,0.3]]"
BODIES = {"/inference": ROWS, INFER: infer()}
FRAMINGS = ["length", "chunked"]
OFFERS = {
    "h2c": ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ"),
    "websocket": ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"),
}
LIVE = request("", start="GET /health/live HTTP/1.1{}")
DATA = "|[]{}^\\`"  # sent raw in queries by browsers and Node's fetch
REFUSED = '"<>#'


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Server]:
    with serving_over(request.param, certificate, "--keep-alive", "3") as running:
        yield running


@pytest.mark.parametrize("offer", OFFERS)
@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("path", BODIES)
def test_an_offer_to_upgrade_is_ignored(
    server: Server, path: str, framing: str, offer: str
) -> None:
    """RFC 9110, 7.8."""
    frame = post if framing == "length" else chunked
    plain = frame(BODIES[path], path=path)
    offering = frame(BODIES[path], *OFFERS[offer], path=path)
    expected = results(ask(server, plain + plain + USUAL + LAST))
    assert [status for status, _ in expected] == [200] * 4
    end = offering.index(b"\r\n\r\n") + 4
    places = [(), (20,), (end - 2,), (end,), (end + 5,), (20, end, end + 5), (len(offering) - 1,)]
    for cut in places:
        found = ask(server, *cuts(offering + offering + USUAL + LAST, *cut))
        assert results(found) == expected
        assert [one.closes for one in found] == [False] * 3 + [True]


@pytest.mark.parametrize("offer", OFFERS)
def test_an_offer_to_upgrade_without_a_body_is_ignored(server: Server, offer: str) -> None:
    for path in (f"/inference?{GOLDEN}", "/health/live"):
        offering = request("", *OFFERS[offer], start=f"GET {path} HTTP/1.1{{}}")
        for cut in ((), (20,), (len(offering) - 2,), (len(offering),)):
            found = ask(server, *cuts(offering + post(ROWS) + offering + LAST, *cut))
            assert statuses(found) == [200] * 4
            assert [one.closes for one in found] == [False] * 3 + [True]


@pytest.mark.parametrize("name", ["Connection", "Proxy-Connection"])
def test_close_as_a_trailer(server: Server, name: str) -> None:
    """It has no effect, or ends the connection openly: no answer is for another request."""
    rest = LIVE + post(ROWS[:11] + b"]") + USUAL + LAST
    expected = results(ask(server, chunked(ROWS) + rest))
    closing = chunked(ROWS, trailer=f"{name}: close\r\n".encode())
    for pieces in ([closing + rest], [closing, rest], cuts(closing + rest, len(closing) - 4)):
        found = ask(server, *pieces)
        answered = 1 if found[0].closes else len(expected)
        assert results(found) == expected[:answered]


@pytest.mark.parametrize("first", [post(ROWS), LIVE, USUAL], ids=["post", "live", "get"])
def test_a_refused_head_request_behind_others_gets_no_body(server: Server, first: bytes) -> None:
    bad = request(GOLDEN, "Host: y", start="HEAD /inference?{} HTTP/1.1")
    for pieces in ([first + bad], [first, bad]):
        with server.connect() as client:
            send(client, *pieces)
            received = receive(client)
        assert received.count(b"HTTP/1.1 ") == 2
        assert received.endswith(b"\r\nconnection: close\r\n\r\n")


@pytest.mark.parametrize("more", [b"\r\n", USUAL, post(ROWS)], ids=["crlf", "get", "post"])
def test_the_last_answer_arrives_whole_whatever_follows(server: Server, more: bytes) -> None:
    """RFC 9112, 9.6."""
    large = b"[" + b",".join([b"[0.1,0.2,0.3,0.4]"] * 4096) + b"]"
    for last in (post(large, "Connection: close"), LAST):
        for pieces in ([last + more], [last, more], [last, more, more]):
            with connect_narrow(server) as client:
                send(client, *pieces)
                time.sleep(2 * PAUSE_SECONDS)  # the client is slow
                (found,) = answers(receive(client))
            assert found.status == 200 and found.closes


def of_size(size: int, filling: str) -> bytes:
    """A last request with a head of this size."""
    if filling == "target":
        return request(GOLDEN + "&x=" + "y" * (size - len(LAST) - 3), "Connection: close")
    lines = ["a:b"] * ((size - len(LAST) - 10) // 5) if filling == "lines" else []
    begun = len(LAST) + 5 * len(lines)
    return request(GOLDEN, *lines, "x:" + "y" * (size - begun - 4), "Connection: close")


def pieces_of(stream: bytes) -> list[list[bytes]]:
    """The stream in one piece, in two, and in many."""
    size = len(stream)
    return [[stream], cuts(stream, size // 2), cuts(stream, size - 2),
            cuts(stream, *range(1000, size, 1000))]  # fmt: skip


@pytest.mark.parametrize("filling", ["target", "field", "lines"])
def test_a_head_counts_its_bytes_however_it_arrives(server: Server, filling: str) -> None:
    fits, exceeds = of_size(LIMIT_HEAD, filling), of_size(LIMIT_HEAD + 1, filling)
    assert (len(fits), len(exceeds)) == (LIMIT_HEAD, LIMIT_HEAD + 1)
    for before in (b"", USUAL, post(ROWS)):
        answered = [200] * bool(before)
        for pieces in pieces_of(before + fits):
            assert statuses(ask(server, *pieces, pause=0.01)) == [*answered, 200]
        for pieces in pieces_of(before + exceeds):
            assert statuses(ask(server, *pieces, pause=0.01)) == [*answered, 431]
    for pieces in pieces_of(b"\r\n\r\n" + fits):  # empty lines before it don't count
        assert statuses(ask(server, *pieces, pause=0.01)) == [200]


def test_trailers_count_as_the_head_however_they_arrive(server: Server) -> None:
    for line in (b"a:b\r\n", b"x: " + b"y" * 4995 + b"\r\n"):
        fits = chunked(ROWS, trailer=line * (15_000 // len(line))) + LAST
        for pieces in pieces_of(fits):
            assert statuses(ask(server, *pieces, pause=0.01)) == [200, 200]
        exceeds = chunked(ROWS, trailer=line * (20_000 // len(line)))
        for pieces in pieces_of(exceeds):
            assert statuses(ask(server, *pieces, pause=0.01)) == [431]
    endless = chunked(ROWS, trailer=b"x: " + b"y" * 20_000)[:-2]
    for pieces in pieces_of(endless):
        assert statuses(ask(server, *pieces, pause=0.01)) == [431]


@pytest.mark.parametrize("blanks", [" ", "\t", " \t "], ids=["space", "tab", "both"])
@pytest.mark.parametrize(
    ("line", "body"), [("Content-Length: 0", b""), ("Content-Length: 5", b"hello")]
)
def test_white_space_behind_a_length(server: Server, line: str, body: bytes, blanks: str) -> None:
    """RFC 9110, 5.5."""
    found = ask(server, request(GOLDEN, line + blanks) + body + USUAL + LAST)
    assert statuses(found) == [200] * 3


def test_white_space_behind_a_coding(server: Server) -> None:
    """A blank; llhttp rejects a tab."""
    sent = request(GOLDEN, "Transfer-Encoding: chunked ") + b"5\r\nhello\r\n0\r\n\r\n"
    assert statuses(ask(server, sent + USUAL + LAST)) == [200] * 3


@pytest.mark.parametrize("blanks", ["", " ", "\t", " \t "], ids=["none", "space", "tab", "both"])
def test_100_continue_with_white_space_behind_it(server: Server, blanks: str) -> None:
    sent = post(ROWS, f"Expect: 100-continue{blanks}")
    with server.connect() as client:
        client.sendall(sent[: -len(ROWS)])
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(ROWS + LAST)
        assert statuses(answers(receive(client))) == [200, 200]


@pytest.mark.parametrize(
    ("line", "status"),
    [
        ("GET /health/live RTSP/1.0", 400),
        ("GET /health/live RTSP/1.1", 400),
        (f"GET /inference?{GOLDEN} RTSP/1.0", 400),
        (f"GET /inference?{GOLDEN} ICE/1.0", 400),
        ("SOURCE /x ICE/1.0", 400),
        ("GET /x ICE/1.0", 400),
        ("DESCRIBE /health/live RTSP/1.0", 400),
        (f"GET /inference?{GOLDEN} HTTP/1.2", 505),
        ("GET /health/live HTTP/2.0", 505),
        ("GET /health/live HTTP/0.9", 505),
    ],
)
def test_protocols_and_versions(server: Server, line: str, status: int) -> None:
    sent = f"{line}\r\nHost: x\r\n\r\n".encode()
    for before in (b"", USUAL, LIVE):
        found = ask(server, before + sent + USUAL)
        assert statuses(found) == [200] * bool(before) + [status]
        assert found[-1].closes


@pytest.mark.parametrize("kind", ["get", "live", "post"])
def test_http_1_0_keeps_alive_if_asked_to(server: Server, kind: str) -> None:
    def asking(*lines: str) -> bytes:
        if kind == "post":
            return post(ROWS, *lines, version="1.0")
        path = "/health/live" if kind == "live" else f"/inference?{GOLDEN}"
        return request("", *lines, start=f"GET {path} HTTP/1.0{{}}")

    kept = asking("Connection: keep-alive")
    for pieces in ([kept + kept + asking() + USUAL], [kept, kept, asking(), USUAL]):
        found = ask(server, *pieces)
        assert statuses(found) == [200] * 3
        for one in found[:2]:
            assert "\r\nconnection: keep-alive\r\n" in one.head
        assert found[2].closes


@pytest.mark.parametrize("form", ["", "http://x"], ids=["origin", "absolute"])
def test_odd_characters_in_a_query_are_data(server: Server, form: str) -> None:
    for path in (f"{form}/inference?{GOLDEN}", f"{form}/health/live?a=b"):
        for odd in (*DATA, DATA):
            sent = request(f"{path}&x={odd}", start="GET {} HTTP/1.1")
            assert statuses(ask(server, sent + LAST)) == [200, 200]
            with server.connect() as client:
                send(client, sent.replace(b"GET", b"HEAD", 1) + LAST)
                received = receive(client)
            head, _, rest = received.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            assert statuses(answers(rest)) == [200]


@pytest.mark.parametrize("form", ["", "http://x"], ids=["origin", "absolute"])
def test_a_refused_target_is_named(server: Server, form: str) -> None:
    queries = [f"{form}{path}?{GOLDEN}&x={odd}" for odd in REFUSED
               for path in ("/inference", "/health/live")]  # fmt: skip
    paths = [f"{form}/a{odd}b?{GOLDEN}" for odd in REFUSED + DATA]
    for target in queries + paths:
        (found,) = ask(server, request(target, start="GET {} HTTP/1.1"))
        assert found.status == 400
        assert b"target" in found.body, target


@pytest.mark.parametrize("kind", ["fast-tcp", "fast-tls", "fast-unix", "asgi-tcp"])
def test_the_last_answer_before_a_stop_is_the_last_request_computed(
    kind: str, certificate: Path
) -> None:
    with serving_over(kind, certificate) as server:
        wait_for_log(server, " serves on ")
        with server.connect() as client:
            client.sendall(USUAL)
            assert read_answer(client).startswith(b"HTTP/1.1 200 ")
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)  # it is stopping; idle connections are kept for a second
            client.sendall(post(ROWS) * 5)
            (found,) = answers(receive(client))
        assert found.status == 200 and found.closes
        assert log_of(server).endswith("] stopped after 2 requests\n")
