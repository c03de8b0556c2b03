"""100 Continue: sent only if the client asks for it and the application reads the body."""

import asyncio

import pytest

from cartpole.api.inference import Inference
from tests.support.body_reader import reading
from tests.support.corpus import EXPECTING, POST, USUAL, request
from tests.support.memory import SERVED, both, statuses


@SERVED
def test_no_100_continue_once_the_body_has_begun(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        assert await connection.send(EXPECTING + b"a") == b""
        assert statuses(await connection.send(b"bc")) == [200]

    asyncio.run(run())


@SERVED
def test_100_continue_where_the_body_is_read(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        assert await connection.send(USUAL.replace(b"Host", b"X: y\r\nHost"), EXPECTING) != b""
        assert connection.transport.written.endswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        await connection.send(b"a")
        answer = await connection.send(b"bc")
        assert statuses(answer) == [200, 100, 200]
        assert b"connection: close" not in answer
        assert (await connection.send(EXPECTING + b"abc")).count(b"100 Continue") == 1
        assert statuses(bytes(connection.transport.written)) == [200, 100, 200, 200]
        # Behind a request that is still being answered.
        await connection.send(request("", start=POST) + EXPECTING)
        assert statuses(bytes(connection.transport.written))[4:] == [200, 100]
        await connection.send(b"abc")
        assert statuses(bytes(connection.transport.written))[4:] == [200, 100, 200]

    asyncio.run(run())


@SERVED
def test_no_100_continue_where_it_is_not_asked_or_not_known(
    inference: Inference, fast: bool
) -> None:
    async def run() -> None:
        plain = request("", "Content-Length: 3", start=POST)
        for head in (plain, EXPECTING.replace(b"HTTP/1.1", b"HTTP/1.0")):
            connection = reading(inference, fast)
            assert await connection.send(head) == b""
            assert statuses(await connection.send(b"abc")) == [200]
        connection = reading(inference, fast)
        empty = EXPECTING.replace(b"Content-Length: 3", b"Content-Length: 0")
        assert statuses(await connection.send(empty)) == [200]

    asyncio.run(run())


def test_a_final_answer_in_place_of_100_continue_is_the_last(inference: Inference) -> None:
    """The server cannot know whether the client will send the body, so it reads nothing more."""
    for parts in ([EXPECTING], [EXPECTING, b"abc" + USUAL], [EXPECTING, USUAL]):
        answer = both(inference, parts)
        assert statuses(answer) == [405]
        assert b"connection: close" in answer
    answer = both(inference, [EXPECTING + b"abc" + USUAL])  # it did not wait
    assert statuses(answer) == [405, 200]


@SERVED
def test_a_body_that_turns_bad_after_100_continue(
    inference: Inference, fast: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        head = request("", "Transfer-Encoding: chunked", "Expect: 100-continue", start=POST)
        for rest, status in ((b"z\r\n", 400), (b"7d0\r\n" + b"x" * 1001, 413)):
            connection = reading(inference, fast)
            answer = await connection.send(head, b"1\r\na\r\n", rest)
            assert statuses(answer) == [100, status]
            assert connection.transport.over()

    asyncio.run(run())
    assert not caplog.records
