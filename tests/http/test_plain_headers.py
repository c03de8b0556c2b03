"""Header blocks that change: the quick answer is never less strict than llhttp's."""

import asyncio

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cartpole.api.inference import Inference
from cartpole.http import plain_headers
from cartpole.http.plain_headers import PlainHeaders, _parses_as_plain
from tests.support.corpus import USUAL, request
from tests.support.memory import Connection, answers, both
from tests.support.paths import GOLDEN

TRACED = (
    b"Host: a.example:3000\r\nUser-Agent: x/1.0\r\nAccept: */*\r\n"
    b"traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\n"
    b"Cookie: a=b; c=d\r\nX-Forwarded-For: 10.0.0.1\r\n\r\n"
)
NAMES = [
    *(b"Host", b"host", b"HOST", b"Host ", b" Host", b"X", b"Connection", b"connection"),
    *(b"Proxy-Connection", b"Content-Length", b"Transfer-Encoding", b"Upgrade", b"Expect"),
    *(b"traceparent", b"Content-Type", b"X\x00", b"", b":", b"\xffa", b"Trailer", b"TE"),
]
VALUES = [
    *(b"a", b"", b" a.example", b" b", b" close", b" keep-alive", b" chunked", b" 0", b" 5"),
    *(b" 100-continue", b" h2c", b" \x00", b" \x7f", b" \xff", b" a\rb", b" a\nb", b"\t x\t", b":"),
    b" " + b"x" * 300,
]
lines = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES)).map(b":".join)
blocks = st.lists(st.one_of(lines, st.sampled_from(TRACED.split(b"\r\n")[:-2])), max_size=8).map(
    lambda found: b"\r\n".join([*found, b"", b""])
)


def changed(block: bytes) -> bytes:
    return block.replace(b"4bf92f35", b"00000001").replace(b"a=b", b"a=\xff").replace(b".1", b".2")


@settings(max_examples=500, deadline=None)
@given(st.lists(blocks, min_size=1, max_size=6))
@example([TRACED, TRACED.replace(b"Host", b"X")])
@example([TRACED, TRACED.replace(b"Accept", b"Host")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"Content-Length: 5")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"Connection: close")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"PROXY-connection: close")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"Expect: x")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"Transfer-Encoding: chunked")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"Content-Length: 00")])
@example([TRACED, TRACED.replace(b"Accept: */*", b"X: a\rb")])
@example([TRACED, TRACED.replace(b"Accept: */*", b" folded")])
def test_whatever_came_before_the_answer_is_llhttps(found: list[bytes]) -> None:
    headers = PlainHeaders()
    for block in (TRACED, *found):
        quick = headers.query_end(b"?" + plain_headers.VERSION + block, 0) > 0
        assert not quick or _parses_as_plain(block)
        assert headers.is_plain(block) == _parses_as_plain(block)


def test_values_that_change_are_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = PlainHeaders()
    assert headers.is_plain(TRACED)
    monkeypatch.setattr(plain_headers, "_parses_as_plain", None)  # calling it would raise
    assert headers.is_plain(changed(TRACED))
    assert headers.query_end(b"q" + plain_headers.VERSION + changed(TRACED), 0) == 1


def test_what_is_remembered_is_bounded(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        for number in range(150):
            block = request(GOLDEN, *(f"X-{n}: {number}" for n in range(number % 30)))
            await connection.send(block)
        assert len(connection.shared.plain_headers._templates) <= 31
        assert len(answers(bytes(connection.transport.written))) == 150

    asyncio.run(run())
    headers = PlainHeaders()
    for number in range(1, 2000):
        assert headers.is_plain(b"X: y\r\n" * number + b"Host: a\r\n\r\n")
    assert len(headers._templates) <= 64


def test_both_ways_answer_requests_whose_headers_change(inference: Inference) -> None:
    line = USUAL.partition(b"\r\n")[0] + b"\r\n"
    bad = TRACED.replace(b"Accept: */*", b"Content-Length: x")
    written = both(inference, [line + TRACED, line + changed(TRACED), line + TRACED, line + bad])
    assert [status for status, _ in answers(written)] == [b"200"] * 3 + [b"400"]


def test_the_date_is_that_of_the_second(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        await connection.send(USUAL)
        connection.state.default_headers = [(b"date", b"later"), (b"x", b"y")]
        assert b"\r\ndate: later\r\nx: y\r\ncontent-type" in await connection.send(USUAL)

    asyncio.run(run())
