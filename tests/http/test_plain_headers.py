"""Header blocks that change: the quick answers are never less strict than llhttp's."""

import asyncio
import re
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cartpole.api.inference import Inference
from cartpole.http import plain_headers
from cartpole.http.changing_headers import NO_GAP, gap_between
from cartpole.http.plain_headers import Plain, PlainHeaders
from tests.support.corpus import USUAL, request
from tests.support.memory import Connection, answers, both, statuses
from tests.support.paths import GOLDEN, ROOT

VERSION = b" HTTP/1.1\r\n"
TRACED = VERSION + (
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
    lambda found: VERSION + b"\r\n".join([*found, b"", b""])
)


def parse(block: bytes) -> Plain | None:
    """The verdict of llhttp and the head rules, without a memory of earlier blocks."""
    return PlainHeaders().classify(block)


def changed(block: bytes) -> bytes:
    return (
        block.replace(b"4bf92f35", b"00000001")
        .replace(b"a=b", b"a=\xff")
        .replace(b"0.1\r", b"0.2\r")
    )


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
@example([TRACED, TRACED.replace(b"1.1", b"1.0")])
def test_whatever_came_before_the_answer_is_llhttps(found: list[bytes]) -> None:
    headers = PlainHeaders()
    for block in (TRACED, *found):
        is_kept = headers.query_end(b"?" + block, 0) > 0
        is_last = headers.last_query_end(b"?" + block, 0) > 0
        assert not is_kept or parse(block) is Plain.KEPT
        assert not is_last or parse(block) is Plain.LAST
        assert headers.classify(block) is parse(block)


@settings(max_examples=500, deadline=None)
@given(st.lists(blocks, min_size=2, max_size=6))
@example([TRACED, TRACED.replace(b"Accept", b"X"), TRACED.replace(b"Accept", b"Host")])
@example([TRACED, TRACED.replace(b"10.0", b"9"), TRACED.replace(b"10.0", b"1\r\nHost: x")])
@example([TRACED, TRACED.replace(b"*/*", b"*"), TRACED.replace(b"*/*", b"*\r\nTE:x\r\n folded")])
@example([TRACED, TRACED.replace(b"*/*", b"*"), TRACED.replace(b"*/*", b"*\rX: y")])
def test_what_fits_a_gap_is_plain(found: list[bytes]) -> None:
    kept = [block for block in found if parse(block) is Plain.KEPT]
    for former, block in pairwise(kept):
        gap = gap_between(former, block) if former != block else NO_GAP
        for any_block in found:
            if gap.query_end(b"?" + any_block, 0) > 0:
                assert parse(any_block) is Plain.KEPT


# At the end of a gap: what a line begins with that is not neutral, or no line at all.
BROKEN = [b"Host:", b"Transfer-", b"Content-L", b"Proxy-", b"Expect:", b"nothing", b"", b"\r\nX: y"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_gap_ends_with_a_whole_line(broken: bytes) -> None:
    gap = gap_between(TRACED, TRACED.replace(b"*/*", b"text/html"))
    assert gap.query_end(b"?" + TRACED.replace(b"*/*", b"a\r\nTE: b"), 0) == 1
    assert gap.query_end(b"?" + TRACED.replace(b"*/*", b"a\r\n" + broken), 0) == -1
    assert gap.query_end(b"?" + TRACED.replace(b"*/*", b"a\r\nTE: b\r\n" + broken), 0) == -1


@pytest.mark.parametrize("broken", BROKEN)
def test_a_broken_line_in_a_gap_is_refused(broken: bytes, inference: Inference) -> None:
    """As it is without the fast path, which remembers nothing."""
    start = b"GET /inference?" + GOLDEN.encode()
    learned = [start + TRACED, start + TRACED.replace(b"*/*", b"text/html")]
    answer = both(inference, [*learned, start + TRACED.replace(b"*/*", b"a\r\nTE: b\r\n" + broken)])
    *others, last = statuses(answer)
    assert last in (400, 417)
    assert set(others) == {200}  # an empty line ends the head: what is behind it is the next


def test_no_group_has_a_possessive_quantifier() -> None:
    """Python 3.11.2 counts what its last repetition consumed, even if that has failed."""
    for path in (ROOT / "cartpole").rglob("*.py"):
        without_classes = re.sub(r"\[[^\]]*\]", "", path.read_text())
        assert not re.search(r"\)[*+?]\+", without_classes), path


def test_a_gap_begins_before_a_name_that_changes() -> None:
    first, second = TRACED.replace(b"Accept", b"X-1"), TRACED.replace(b"Accept", b"Y")
    gap = gap_between(first, second)
    for block in (first, second, TRACED):
        assert gap.query_end(b"q" + block, 0) == 1


@pytest.mark.parametrize("name", [b"traceparent", b"Cookie", b"X-Forwarded-For", b"User-Agent"])
def test_a_gap_is_found_for_a_value_of_any_length(name: bytes) -> None:
    first, second, third = (
        TRACED.replace(b"Accept: */*", b"%b: %b" % (name, b"c" * size)) for size in (1, 0, 99)
    )
    gap = gap_between(first, second)
    for block in (first, second, third):
        assert gap.query_end(b"GET /?q" + block, 5) == 7
    assert gap.query_end(b"GET /?q" + TRACED.replace(b"Accept", b"Host"), 5) == -1


def test_what_differs_in_more_than_neutral_lines_has_no_gap() -> None:
    for other in (
        TRACED.replace(b"Host: a", b"Host: b"),
        TRACED.replace(b"Cookie: a=b", b"Connection: keep-alive").replace(b"*/*", b"*"),
        TRACED.replace(b"1.1", b"1.0"),
    ):
        assert gap_between(TRACED, other) is NO_GAP


def test_values_that_change_are_not_parsed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    headers = PlainHeaders()
    last = changed(TRACED).replace(b"Accept: */*", b"Connection: close")
    assert headers.classify(TRACED) is Plain.KEPT
    assert headers.classify(last) is Plain.LAST
    monkeypatch.setattr(plain_headers, "_parse", None)  # calling it would raise
    assert headers.classify(changed(TRACED)) is Plain.KEPT
    assert headers.query_end(b"q" + changed(TRACED), 0) == 1
    assert headers.last_query_end(b"q" + changed(last), 0) == 1
    for block in (last, changed(last)):
        assert headers.last_query_end(b"q" + block, 0) == 1
        assert headers.query_end(b"q" + block, 0) == -1


def test_what_is_remembered_is_bounded(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        for number in range(150):
            block = request(GOLDEN, *(f"X-{n}: {number}" for n in range(number % 30)))
            await connection.send(block)
        assert len(connection.shared.plain_headers._kept) <= 31
        assert len(answers(bytes(connection.transport.written))) == 150

    asyncio.run(run())
    headers = PlainHeaders()
    for number in range(1, 2000):
        for end in (b"Host: a\r\n\r\n", b"Connection: close\r\nHost: a\r\n\r\n"):
            assert headers.classify(VERSION + b"X: y\r\n" * number + end)
    assert len(headers._kept) + len(headers._last) <= 128


def test_both_ways_answer_requests_whose_headers_change(inference: Inference) -> None:
    line = USUAL.partition(b" HTTP")[0]
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
