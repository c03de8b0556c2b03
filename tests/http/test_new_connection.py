"""Connections that are made for one request: answered without a parser, whatever else comes."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Iterator
from contextlib import closing
from typing import Any

import pytest

from bench.server import Server, serving
from cartpole.api.inference import Inference
from cartpole.http.connections import HEALTH_RESERVE, IDLE_GRACE_SECONDS
from cartpole.http.fast import FastConnection
from cartpole.http.limits import ClientLimits
from cartpole.http.new_connection import NewConnection
from cartpole.http.time_limits import CLOSE_SECONDS
from tests.support.corpus import CORPUS, USUAL
from tests.support.memory import LIMITS, Connection, statuses
from tests.support.metrics import scrape

LAST = CORPUS["close"]
ANSWERED_LAST = b"\r\nconnection: close\r\n\r\n{"

Test = Callable[[Connection], Coroutine[Any, Any, None]]


def run(inference: Inference, test: Test, limits: ClientLimits = LIMITS) -> None:
    async def with_connection() -> None:
        first = Connection(inference, True)
        await first.send(LAST)  # its header block is known from now on
        first.protocol.connection_lost(None)
        connection = Connection(inference, True, limits, new=True)
        connection.shared.plain_headers = first.shared.plain_headers
        await test(connection)

    asyncio.run(with_connection())


def test_a_usual_last_request_needs_no_parser(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        for _ in range(2):
            assert ANSWERED_LAST in await connection.send(LAST)
            assert isinstance(connection.protocol, NewConnection)
            assert connection.transport.closed
            assert connection.shared.connections.any_open()
            connection.protocol.connection_lost(None)
            assert not connection.shared.connections.any_open()
            assert not connection.state.connections
            connection = connection.another()

    run(inference, test)


@pytest.mark.parametrize(
    "name", ["close", "http/1.0", "http/1.0 keep-alive", "bad", "usual", "head"]
)
def test_many_in_one_turn_are_answered_together(inference: Inference, name: str) -> None:
    async def test(connection: Connection) -> None:
        expected = await Connection(inference, False).send(CORPUS[name])
        others = [connection.another() for _ in range(5)]
        for other in others:
            other.protocol.data_received(CORPUS[name])
            assert not other.transport.written
        for other in others:
            await other.rest()
            assert bytes(other.transport.written) == expected

    run(inference, test)


def test_what_follows_the_last_request_is_not_read(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        other = connection.another()
        for data in (LAST, b"x" * 100_000, USUAL):
            other.protocol.data_received(data)
        assert not other.protocol._unread
        assert statuses(await other.send()) == [200]

    run(inference, test)


@pytest.mark.parametrize("first", [b"GET /infer", USUAL, b"GET /health/ready HTTP/1.1\r\n"])
def test_anything_else_has_a_fast_connection(inference: Inference, first: bytes) -> None:
    async def test(connection: Connection) -> None:
        before = connection.inference.predictor.counters.accepted
        await connection.send(first)
        assert type(connection.protocol) is FastConnection
        assert connection.state.connections == {connection.protocol}
        assert connection.inference.predictor.counters.accepted == before
        connection.protocol.connection_lost(None)
        assert not connection.shared.connections.any_open()

    run(inference, test)


def test_an_answer_that_is_not_taken_does_not_stay_for_ever(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        await connection.send(LAST)
        for _ in range(CLOSE_SECONDS):
            connection.protocol.check_time()
            assert not connection.transport.aborted  # it may be on its way
        connection.protocol.check_time()
        assert connection.transport.aborted

    run(inference, test)


@pytest.mark.parametrize("new", [True, False])
def test_bytes_after_the_last_request_do_not_cost_its_answer(
    inference: Inference, new: bool
) -> None:
    """Closing a socket with unread bytes would reset it: closing.py."""

    async def test() -> None:
        connection = Connection(inference, True, new=new)
        connection.transport.unsent = 1
        assert ANSWERED_LAST in await connection.send(LAST)
        assert connection.transport.ended
        assert not connection.transport.closed
        await connection.send(USUAL)  # is not read
        assert statuses(bytes(connection.transport.written)) == [200]
        for _ in range(CLOSE_SECONDS + 1):
            connection.shared.connections.tick()
        assert connection.transport.aborted

    asyncio.run(test())


def test_a_request_that_has_just_come_is_read_before_the_silence_is_over(
    inference: Inference,
) -> None:
    async def test(connection: Connection) -> None:
        connection.transport.unsent = 1
        for _ in range(LIMITS.keep_alive_seconds + 5):
            connection.protocol.check_time()
        assert not connection.transport.closed

    run(inference, test)


def test_silence_ends_a_connection_without_a_parser(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        for _ in range(LIMITS.keep_alive_seconds):
            connection.protocol.check_time()
            assert not connection.transport.closed
        connection.protocol.check_time()
        assert connection.transport.closed
        assert isinstance(connection.protocol, NewConnection)

    run(inference, test)


def test_after_the_stop_silence_ends_it_soon(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        connection.shared.connections.stop()
        connection.protocol.shutdown()
        for _ in range(IDLE_GRACE_SECONDS):
            connection.shared.connections.tick()
            assert not connection.transport.closed  # a request may be on its way
        connection.shared.connections.tick()
        assert connection.transport.closed

    run(inference, test)


def test_connections_past_the_limit_may_ask_for_health_only(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        others = [connection.another() for _ in range(HEALTH_RESERVE + 1)]
        assert statuses(await others[0].send(LAST)) == [503]
        assert statuses(await others[1].send(CORPUS["health"])) == [200]
        assert statuses(bytes(others[-1].transport.written)) == [503]
        assert others[-1].transport.closed
        assert statuses(await connection.send(LAST)) == [200]

    run(inference, test, ClientLimits(connections=1))


def test_the_stop_answers_what_was_received(inference: Inference) -> None:
    async def test(connection: Connection) -> None:
        answered, idle = connection.another(), connection.another()
        answered.protocol.data_received(LAST)
        connection.shared.connections.stop()
        for each in (answered, idle):
            each.protocol.shutdown()
        assert ANSWERED_LAST in answered.transport.written
        assert answered.transport.closed
        assert ANSWERED_LAST in await idle.send(USUAL)
        assert ANSWERED_LAST in await connection.another().send(USUAL)

    run(inference, test)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def exchange(server: Server, *parts: bytes) -> bytes:
    """Connect, send, half-close, and read to the end."""
    with socket.create_connection(("127.0.0.1", server.port)) as client:
        for part in parts:
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        with closing(client.makefile("rb")) as stream:
            return stream.read()


def test_first_bytes_are_read_together_with_accepting(server: Server) -> None:
    """With a real socket, whose bytes may be there before or after the event loop looks."""
    for _ in range(20):
        assert ANSWERED_LAST in exchange(server, LAST)
        assert ANSWERED_LAST in exchange(server, LAST[:50], LAST[50:])
        assert statuses(exchange(server, USUAL * 100)) == [200] * 100
        assert statuses(exchange(server, USUAL, CORPUS["health"], LAST)) == [200] * 3
        assert exchange(server) == b""
        assert statuses(exchange(server, b"\xff" * 10_000)) == [400]


def test_each_connection_is_counted_once(server: Server) -> None:
    before = scrape(server)
    for request in (LAST, USUAL, CORPUS["health"], b""):
        exchange(server, request)
    after = scrape(server)  # over a connection of its own
    name = "cartpole_connections_accepted_total", ()
    assert after[name] - before[name] == 5
    assert after["cartpole_connections_open", ()] == 1
