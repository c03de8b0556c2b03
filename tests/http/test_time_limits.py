"""Time limits of connections: slow heads and bodies, idle clients, unread responses, shutdown."""

import asyncio

import pytest

from cartpole.api.inference import Inference
from tests.support.corpus import CORPUS, USUAL, request
from tests.support.memory import SERVED, Connection, statuses, wait
from tests.support.paths import GOLDEN


@pytest.mark.parametrize("fast", [True, False])
def test_time_limits(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        def wait(connection: Connection, seconds: int) -> None:
            for _ in range(seconds):
                connection.shared.clock.now += 1
                connection.protocol.check_time()

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
        connection.shared.clock.now += 76
        connection.protocol.check_time()
        assert connection.transport.aborted

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_shutdown_answers_what_was_asked(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        connection.protocol.data_received(USUAL)
        connection.protocol.shutdown()
        await connection.rest()
        assert connection.transport.written.endswith(b"}")
        if fast:  # it was answered at once; the next request is the last
            assert not connection.transport.closed
            connection.shared.connections.stop()
            connection.protocol.data_received(USUAL)
            await connection.rest()
        assert connection.transport.written.count(b"HTTP/1.1 200 OK") == 1 + fast
        assert connection.transport.written.count(b"connection: close\r\n") == 1
        assert connection.transport.closed

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
