"""Time limits of connections: slow heads and bodies, idle clients, unread responses, shutdown."""

import asyncio

import pytest

from cartpole.api.inference import Inference
from tests.support.corpus import CORPUS, USUAL, request
from tests.support.memory import LIMITS, SERVED, Connection, statuses, wait
from tests.support.paths import GOLDEN


@pytest.mark.parametrize("fast", [True, False])
def test_time_limits(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        slow = Connection(inference, fast)
        await slow.send(USUAL[:10])
        for _ in range(10):  # a byte a second does not help
            wait(slow, 1)
            slow.protocol.data_received(b"x")
        wait(slow, 1)
        assert b"408 Request Timeout" in slow.transport.written
        assert b'{"error":"the request took too long"}' in slow.transport.written
        assert slow.transport.ended
        wait(slow, 2)
        assert slow.transport.closed

        for parts in ([], [USUAL], [CORPUS["head"]]):
            idle = Connection(inference, fast)
            await idle.send(*parts)
            wait(idle, 75)
            assert not idle.transport.closed
            wait(idle, 1)
            assert idle.transport.closed
            assert b"408" not in idle.transport.written

        trickle = Connection(inference, fast)
        await trickle.send(request(GOLDEN, "Content-Length: 900"))
        for _ in range(76):
            wait(trickle, 1)
            trickle.protocol.data_received(b"x")
        assert statuses(bytes(trickle.transport.written)) == [408]
        wait(trickle, 2)
        assert trickle.transport.closed

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_a_client_that_does_not_read(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        await connection.send(USUAL)
        connection.protocol.pause_writing()
        assert connection.transport.reading_paused
        connection.protocol.resume_writing()
        assert not connection.transport.reading_paused
        connection.protocol.pause_writing()
        wait(connection, 75)
        assert not connection.transport.aborted
        wait(connection, 1)
        assert connection.transport.aborted

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_shutdown_answers_what_was_asked(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        connection.protocol.data_received(USUAL)
        connection.shared.connections.stop()
        connection.protocol.shutdown()
        await connection.rest()
        assert connection.transport.written.endswith(b"}")
        if fast:  # it was answered at once; the next request is the last
            assert not connection.transport.over()
            connection.protocol.data_received(USUAL)
            await connection.rest()
        assert connection.transport.written.count(b"HTTP/1.1 200 OK") == 1 + fast
        assert connection.transport.written.count(b"connection: close\r\n") == 1
        assert connection.transport.over()

    asyncio.run(run())


@SERVED
def test_empty_lines_do_not_keep_a_connection(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        await connection.send(USUAL)
        for _ in range(75):
            wait(connection, 1)
            await connection.send(b"\r\n")
            assert not connection.transport.closed
        wait(connection, 1)
        assert connection.transport.closed

    asyncio.run(run())


@SERVED
def test_empty_lines_that_wait_in_the_kernel_spare_a_connection_once(
    inference: Inference, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        monkeypatch.setattr("cartpole.http.time_limits._queued", lambda *_: 2)
        wait(connection, 76)
        assert not connection.transport.closed  # a request may have just come
        connection.protocol.data_received(b"\r\n")
        wait(connection, 1)
        assert connection.transport.closed

    asyncio.run(run())


ASKED = {
    "get": USUAL,
    "pipelined": USUAL * 3,
    "post": request("", "Content-Length: 12", start="POST /inference HTTP/1.1{}") + b"[[0,0,-1,0]]",
}


@SERVED
@pytest.mark.parametrize("name", ASKED)
def test_a_client_that_asks_again_in_time_is_kept(
    inference: Inference, fast: bool, name: str
) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        for _ in range(4):
            await connection.send(ASKED[name])
            wait(connection, LIMITS.keep_alive_seconds)
            assert not connection.transport.over()
        assert set(statuses(bytes(connection.transport.written))) == {200}
        wait(connection, 1)
        assert connection.transport.closed

    asyncio.run(run())


@SERVED
def test_idle_time_begins_with_the_answer(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        connection.protocol.data_received(CORPUS["health"])
        wait(connection, LIMITS.keep_alive_seconds + 1)  # the application takes its time
        assert statuses(await connection.send()) == [200]
        wait(connection, LIMITS.keep_alive_seconds)
        assert not connection.transport.closed
        wait(connection, 1)
        assert connection.transport.closed

    asyncio.run(run())


def test_from_the_stop_on_each_answer_is_the_last(inference: Inference) -> None:
    """Also before uvicorn tells each connection."""

    async def run() -> None:
        connection = Connection(inference, True)
        await connection.send(USUAL, USUAL)
        connection.shared.connections.stop()
        assert (await connection.send(USUAL)).count(b"connection: close") == 1

    asyncio.run(run())


@SERVED
def test_a_head_may_begin_late(inference: Inference, fast: bool) -> None:
    """Its time begins with its first byte."""

    async def run() -> None:
        connection = Connection(inference, fast)
        await connection.send(USUAL)
        wait(connection, LIMITS.keep_alive_seconds)
        await connection.send(CORPUS["health"][:20])
        wait(connection, LIMITS.head_seconds)
        assert not connection.transport.over()
        assert statuses(await connection.send(CORPUS["health"][20:])) == [200, 200]

    asyncio.run(run())


@SERVED
def test_a_slow_head_request_is_told_so_without_a_body(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        await connection.send(CORPUS["head"][:-2])
        wait(connection, LIMITS.head_seconds + 1)
        assert statuses(bytes(connection.transport.written)) == [408]
        assert connection.transport.written.endswith(b"\r\n\r\n")

    asyncio.run(run())
