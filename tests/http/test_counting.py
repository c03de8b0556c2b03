"""Size and time limits apply to each head and body, no matter how reads split them.

In memory, in both modes.
"""

import asyncio
from collections.abc import Callable

import pytest

from cartpole.api.inference import Inference
from tests.support.corpus import CHUNKED, POST, USUAL, request
from tests.support.memory import LIMITS, SERVED, Connection, both, statuses, wait
from tests.support.paths import GOLDEN

HEADS: dict[str, Callable[[bytes], list[bytes]]] = {
    "ends one head and begins another": lambda one: [
        one[:50], one[50:] + one * 200 + one[:20], one[20:]],
    "begins another within its target": lambda one: [
        one[:20], one[20:] + one * 100 + one[:30], one[30:60], one[60:]],
    "every 1,000 bytes": lambda one: [
        (one * 400)[at : at + 1000] for at in range(0, 400 * len(one), 1000)],
    "every 7 bytes": lambda one: [(one * 50)[at : at + 7] for at in range(0, 50 * len(one), 7)],
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("other", ["usual", "head", "body", "chunked"])
def test_heads_are_counted_one_by_one(inference: Inference, name: str, other: str) -> None:
    one = {
        "usual": USUAL,
        "head": request(start="HEAD /inference?{} HTTP/1.1"),
        "body": request("", "Content-Length: 40", start=POST) + b"\n" * 40,
        "chunked": CHUNKED + b"28;a=b\r\n" + b"x" * 40 + b"\r\n0\r\n\r\n",
    }[other]
    parts = HEADS[name](one)
    found = statuses(both(inference, parts))
    assert len(found) == b"".join(parts).count(b"Host: ")
    assert set(found) == {405 if one.startswith(b"POST") else 200}


@pytest.mark.parametrize("piece", [1, 7, 100, 700, 1900])
def test_a_head_below_the_limit_is_taken_however_it_is_split(
    inference: Inference, piece: int
) -> None:
    for good in (
        request("position=0&velocity=0&angle=-1&angular_velocity=0&x=" + "y" * 1800),
        request("position=0&velocity=0&angle=-1&angular_velocity=0", "X: " + "y" * 1800),
        request("position=0&velocity=0&angle=-1&angular_velocity=0", "y" * 1800 + ": x"),
    ):
        assert len(good) < LIMITS.head_bytes
        parts = [good[at : at + piece] for at in range(0, len(good), piece)]
        assert statuses(both(inference, parts)) == [200]


@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
def test_the_last_byte_of_a_head(inference: Inference, more: int, status: int) -> None:
    """Counted are all bytes from the method to the empty line.

    A HEAD request, since the fast path takes a request as a whole.
    """
    head = request(
        "position=0&velocity=0&angle=-1&angular_velocity=0", start="HEAD /inference?{} HTTP/1.1"
    )
    size = LIMITS.head_bytes - len(head) - len("X: \r\n") + more
    sent = head.replace(b"\r\nHost: ", b"\r\nX: " + b"y" * size + b"\r\nHost: ")
    assert sent.endswith(b"\r\nHost: x\r\n\r\n")
    assert len(sent) == LIMITS.head_bytes + more
    for cut in (1, 100, 1998, len(sent)):
        parts = [b"\r\n", sent[:cut], sent[cut:]]
        assert statuses(both(inference, [part for part in parts if part])) == [status]


def of_size(size: int) -> bytes:
    """A usual request with a head of this size. All of them have the same known block."""
    short = request(GOLDEN, "X: ")
    return short.replace(b"X: ", b"X: " + b"y" * (size - len(short)))


@pytest.mark.parametrize("before", [0, 1], ids=["alone", "pipelined"])
@pytest.mark.parametrize(("more", "status"), [(0, 200), (1, 431)])
def test_the_last_byte_of_a_head_that_is_known(
    inference: Inference, before: int, more: int, status: int
) -> None:
    parts = [of_size(300), of_size(300) * before + of_size(LIMITS.head_bytes + more)]
    assert statuses(both(inference, parts)) == [200] * (1 + before) + [status]


@pytest.mark.parametrize("piece", [7, 3000])
@pytest.mark.parametrize(("more", "status"), [(0, 405), (1, 431)])
def test_the_last_byte_of_the_trailers(
    inference: Inference, piece: int, more: int, status: int
) -> None:
    """They share the limit of the head."""
    size = LIMITS.head_bytes - len(CHUNKED) - len(b"X: \r\n\r\n") + more
    sent = CHUNKED + b"0\r\nX: " + b"y" * size + b"\r\n\r\n"
    parts = [sent[at : at + piece] for at in range(0, len(sent), piece)]
    assert statuses(both(inference, parts)) == [status]


@pytest.mark.parametrize("piece", [1, 100, 1999, 5000])
def test_a_head_above_the_limit_is_refused_however_it_is_split(
    inference: Inference, piece: int
) -> None:
    for bad in (
        request("x=" + "y" * 3000),
        request("", "X: " + "y" * 3000),
        request("", "y" * 3000 + ": x"),
        request("", *["X: y"] * 1000),
        request("", "X:" + " " * 9000 + "y")[:-4],
    ):
        parts = [bad[at : at + piece] for at in range(0, len(bad), piece)]
        assert statuses(both(inference, [USUAL, *parts])) == [200, 431]


def test_a_body_is_not_charged_for_what_came_before_it(inference: Inference) -> None:
    first = CHUNKED + b"5\r\nhello\r\n0\r\n\r\n"
    parts = [first[:-2], first[-2:] + USUAL * 200 + CHUNKED + b"5;a", b"=b\r\nhello\r\n0\r\n\r\n"]
    assert statuses(both(inference, parts)) == [405, *[200] * 200, 405]


BEGUN = {"head": USUAL[:-9], "body": request("", "Content-Length: 3", start=POST)}


@SERVED
@pytest.mark.parametrize("what", BEGUN)
def test_time_in_which_a_client_is_held_is_not_its_own(
    inference: Inference, fast: bool, what: str
) -> None:
    async def run() -> None:
        connection, seconds = Connection(inference, fast), {"head": 10, "body": 75}[what]
        await connection.send(USUAL, BEGUN[what])
        turns = connection.shared.turns
        turns.count(turns.bytes_per_turn + 1)  # the turn's budget is spent
        connection.protocol.data_received(b"x")
        assert connection.protocol._is_deferred
        wait(connection, seconds + 1)
        await connection.rest()
        wait(connection, seconds - 3)
        for _ in range(3):  # held again, but not for long: a trickle does not help
            turns.count(turns.bytes_per_turn + 1)
            connection.protocol.data_received(b"x" if what == "head" else b"")
            await connection.rest()
            wait(connection, 1)
        assert not connection.transport.over()
        wait(connection, 1)
        assert statuses(bytes(connection.transport.written)) == [200, 408]

    asyncio.run(run())


@SERVED
@pytest.mark.parametrize("what", BEGUN)
def test_time_in_which_nothing_is_read_is_not_the_clients(
    inference: Inference, fast: bool, what: str
) -> None:
    async def run() -> None:
        connection, seconds = Connection(inference, fast), {"head": 10, "body": 75}[what]
        await connection.send(USUAL, BEGUN[what])
        connection.protocol.pause_writing()
        wait(connection, 70)  # it does not read its answers, for which it has 75 s
        connection.protocol.resume_writing()
        wait(connection, seconds)
        assert not connection.transport.over()
        wait(connection, 1)
        assert statuses(bytes(connection.transport.written)) == [200, 408]

    asyncio.run(run())
