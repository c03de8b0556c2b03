"""Known header blocks: the quick answers are never less strict than the reader's."""

import asyncio
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cartpole.api.inference import Inference
from cartpole.http.known_heads import TARGET, KnownHeads
from cartpole.http.limits import ClientLimits
from cartpole.http.reader import RequestReader
from cartpole.http.responses import KEPT, KEPT_HTTP_1_0, LAST
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


def read(block: bytes) -> bytes | None:
    """The reader's verdict: the persistence behind a GET request without a body, or None."""
    reader = RequestReader(ClientLimits(head_bytes=100_000))
    data = b"GET /" + block
    is_all = reader.read(data, 0) == len(data)
    request = reader.request
    if not is_all or request is None or not request.is_whole or reader.body_has_begun:
        return None
    if not request.keep_alive:
        return LAST
    return KEPT if request.version == "1.1" else KEPT_HTTP_1_0


def learned(*blocks: bytes) -> KnownHeads:
    """What has learned those of the blocks that the reader takes, as a connection teaches it."""
    heads = KnownHeads()
    for block in blocks:
        persistence = read(block)
        if persistence is not None:
            heads.learn(TARGET + block, persistence)
    return heads


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
def test_whatever_came_before_the_answer_is_the_readers(found: list[bytes]) -> None:
    for number in range(len(found) + 1):
        heads = learned(TRACED, *found[:number])
        for block in found:
            for _ in range(2):  # the first time may leave a gap
                end, persistence = heads.find(TARGET + block)
                assert end in (-1, len(TARGET))
                assert end < 0 or persistence is read(block)


# At the end of a gap: what a line begins with that is not neutral, or no line at all.
BROKEN = [b"Host:", b"Transfer-", b"Content-L", b"Proxy-", b"Expect:", b"nothing", b"", b"\r\nX: y"]


@pytest.mark.parametrize("broken", BROKEN)
def test_a_gap_ends_with_a_whole_line(broken: bytes) -> None:
    heads = learned(TRACED)
    assert heads.find(TARGET + TRACED.replace(b"*/*", b"text/html"))[0] > 0  # leaves the gap
    for lines, is_known in ((b"a\r\nTE: b", True), (b"a\r\n" + broken, False)):
        end, _ = heads.find(TARGET + TRACED.replace(b"*/*", lines))
        assert (end == len(TARGET)) == is_known
    end, _ = heads.find(TARGET + TRACED.replace(b"*/*", b"a\r\nTE: b\r\n" + broken))
    assert end == -1


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


@pytest.mark.parametrize("name", [b"traceparent", b"Cookie", b"X-Forwarded-For", b"User-Agent"])
def test_a_gap_is_found_for_a_value_of_any_length(name: bytes) -> None:
    first, second, third = (
        TRACED.replace(b"Accept: */*", b"%b: %b" % (name, b"c" * size)) for size in (1, 0, 99)
    )
    heads = learned(first)
    assert heads.find(TARGET + second)[0] > 0
    heads._templates.clear()  # only the gap is left
    for block in (first, second, third):
        assert heads.find(TARGET + b"q" + block) == (len(TARGET) + 1, KEPT)
    assert heads.find(TARGET + b"q" + TRACED.replace(b"Accept", b"Host"))[0] == -1


@pytest.mark.parametrize("line", [b"Host: a.example:3000", b"Connection: close"])
def test_a_gap_holds_no_line_that_must_stay(line: bytes) -> None:
    host = b"" if line.startswith(b"Host") else b"Host: a\r\n"
    block = VERSION + host + b"X: 1\r\n%b\r\nY: 2\r\n\r\n" % line
    assert read(block) is not None
    heads = learned(block)
    assert heads.find(TARGET + block.replace(b"X: 1", b"X: 3").replace(b"Y: 2", b"Y: 4"))[0] > 0
    without = block.replace(line, b"Z: 5")
    assert heads.find(TARGET + without)[0] == -1
    assert heads.find(TARGET + without.replace(b"Z: 5\r\n", b""))[0] == -1


def test_values_that_change_are_known() -> None:
    blocks = {
        TRACED: KEPT,
        TRACED.replace(b"Accept: */*", b"Connection: close"): LAST,
        TRACED.replace(b"Accept: */*", b"Connection: Upgrade, close"): LAST,
        TRACED.replace(b"1.1", b"1.0", 1): LAST,
        TRACED.replace(b"1.1", b"1.0", 1).replace(
            b"Accept: */*", b"Connection: keep-alive"
        ): KEPT_HTTP_1_0,
    }
    for block, persistence in blocks.items():
        heads = learned(TRACED, block)
        for each in (block, changed(block), changed(block)):
            assert heads.find(TARGET + b"q" + each) == (len(TARGET) + 1, persistence)


def test_http_1_0_is_told_that_the_connection_is_kept(inference: Inference) -> None:
    for path in (f"/inference?{GOLDEN}", "/health/live"):
        kept = request("", "Connection: keep-alive", start=f"GET {path} HTTP/1.0{{}}")
        answer = both(inference, [kept, kept, USUAL])
        assert statuses(answer) == [200] * 3
        assert answer.count(b"\r\nconnection: keep-alive\r\n") == 2


@pytest.mark.parametrize("options", ["Upgrade, close", "close, Upgrade"])
def test_close_beside_an_offer_to_upgrade(inference: Inference, options: str) -> None:
    offering = request(GOLDEN, "Connection: Upgrade", "Upgrade: x")
    closing = request(GOLDEN, f"Connection: {options}", "Upgrade: x")
    answer = both(inference, [offering, offering, closing, USUAL])
    assert statuses(answer) == [200] * 3
    assert answer.count(b"connection: close") == 1


def test_a_block_that_is_long_or_of_another_path_is_not_learned() -> None:
    heads = KnownHeads()
    for head in (b"", b"GET /inference HTTP/1.1\r\n\r\n", b"GET /x" + TRACED, TARGET):
        heads.learn(head, KEPT)
    assert not heads._templates


def test_what_is_remembered_is_bounded(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        for number in range(150):
            block = request(GOLDEN, *(f"X-{n}: {number}" for n in range(number % 30)))
            await connection.send(block)
        assert len(connection.shared.known_heads._templates) <= 31
        assert len(answers(bytes(connection.transport.written))) == 150

    asyncio.run(run())
    heads = KnownHeads()
    for number in range(1, 2000):
        for end in (b"Host: a\r\n\r\n", b"Connection: close\r\nHost: a\r\n\r\n"):
            heads.learn(TARGET + VERSION + b"X: y\r\n" * number + end, KEPT)
    assert len(heads._templates) <= 64


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
