"""Connections that are made for one request: read together with accepting, and ended with care."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from bench.server import Server, serving
from cartpole.api.inference import Inference
from cartpole.http.connections import IDLE_GRACE_SECONDS
from cartpole.http.time_limits import CLOSE_SECONDS
from tests.support.corpus import CORPUS, USUAL
from tests.support.memory import LIMITS, SERVED, Connection, statuses
from tests.support.metrics import scrape

LAST = CORPUS["close"]
ANSWERED_LAST = b"\r\nconnection: close\r\n\r\n{"


def test_a_usual_last_request_needs_no_reader(inference: Inference) -> None:
    async def run() -> None:
        first = Connection(inference, True)
        await first.send(LAST)  # its header block is known from now on
        for _ in range(2):
            connection = first.another()
            assert ANSWERED_LAST in await connection.send(LAST)
            assert connection.protocol._reader is None
            assert connection.transport.ended
            connection.protocol.connection_lost(None)
        first.protocol.connection_lost(None)
        assert not first.shared.connections.any_open()
        assert not first.state.connections

    asyncio.run(run())


@pytest.mark.parametrize(
    "name", ["close", "http/1.0", "http/1.0 keep-alive", "bad", "usual", "head"]
)
def test_many_in_one_turn_are_answered_together(inference: Inference, name: str) -> None:
    async def run() -> None:
        expected = await Connection(inference, False).send(CORPUS[name])
        first = Connection(inference, True)
        others = [first.another() for _ in range(5)]
        for other in others:
            other.protocol.data_received(CORPUS[name])
            assert not other.transport.written
        for other in others:
            await other.rest()
            assert bytes(other.transport.written) == expected

    asyncio.run(run())


@SERVED
def test_what_follows_the_last_request_is_discarded(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        for data in (LAST, b"x" * 100_000, USUAL):
            connection.protocol.data_received(data)
        assert statuses(await connection.send()) == [200]
        assert not connection.protocol._unread
        assert not connection.transport.reading_paused
        assert not connection.transport.closed  # a reset could cost the answer
        for _ in range(CLOSE_SECONDS + 1):
            connection.shared.connections.tick()
        assert connection.transport.aborted

    asyncio.run(run())


def test_what_follows_a_last_request_that_is_known_is_discarded(inference: Inference) -> None:
    async def run() -> None:
        first = Connection(inference, True)
        await first.send(USUAL, LAST)  # their header blocks are known from now on
        connection = first.another()
        for data in (LAST, USUAL):
            connection.protocol.data_received(data)
        assert statuses(await connection.send(USUAL)) == [200]

    asyncio.run(run())


@SERVED
def test_an_answer_that_is_not_taken_does_not_stay_for_ever(
    inference: Inference, fast: bool
) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        await connection.send(LAST)
        for _ in range(CLOSE_SECONDS - 1):
            connection.shared.connections.tick()
            assert not connection.transport.aborted  # it may be on its way
        connection.shared.connections.tick()
        assert connection.transport.aborted

    asyncio.run(run())


@SERVED
def test_silence_ends_a_connection(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        for _ in range(LIMITS.keep_alive_seconds):
            connection.shared.connections.tick()
            assert not connection.transport.closed
        connection.shared.connections.tick()
        assert connection.transport.closed

    asyncio.run(run())


@SERVED
def test_after_the_stop_silence_ends_it_soon(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        connection.shared.connections.stop()
        connection.protocol.shutdown()
        for _ in range(IDLE_GRACE_SECONDS):
            connection.shared.connections.tick()
            assert not connection.transport.closed  # a request may be on its way
        connection.shared.connections.tick()
        assert connection.transport.closed

    asyncio.run(run())


@SERVED
def test_the_stop_answers_what_was_received(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        first = Connection(inference, fast)
        answered, idle = first.another(), first.another()
        answered.protocol.data_received(LAST)
        first.shared.connections.stop()
        for each in (answered, idle):
            each.protocol.shutdown()
        assert ANSWERED_LAST in await answered.send()
        assert ANSWERED_LAST in await idle.send(USUAL)
        assert ANSWERED_LAST in await first.another().send(USUAL)

    asyncio.run(run())


@pytest.fixture(scope="module", params=["fast", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with serving("--http", request.param) as running:
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
        assert statuses(exchange(server, CORPUS["health"] * 200)) == [200] * 200
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
