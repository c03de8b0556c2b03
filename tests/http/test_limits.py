"""Limits on connections and time, in memory, in both modes: tests of cartpole/http/limits.py."""

import asyncio
import gc
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from cartpole.api.inference import Inference
from cartpole.http.connections import HEALTH_RESERVE
from cartpole.http.limits import ClientLimits
from cartpole.metrics.counters import COLUMNS
from tests.support.corpus import CORPUS, USUAL, request
from tests.support.memory import Connection, answers
from tests.support.paths import GOLDEN

EXPECT = b"\r\nExpect: 100-continue\r\n\r\n"
BODY = request(GOLDEN, "Content-Length: 900", start="POST /inference?{} HTTP/1.1")


def run(test: Callable[[], Awaitable[Any]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def wait(connection: Connection, seconds: int) -> None:
    for _ in range(seconds):
        connection.shared.connections.tick()


@pytest.mark.parametrize("fast", [True, False])
def test_connections_past_the_limit(inference: Inference, fast: bool) -> None:
    async def test() -> None:
        first = Connection(inference, fast, ClientLimits(connections=1))
        await first.send(USUAL)  # its header block is known from now on
        for sent, status in ((CORPUS["health"], b"200"), (USUAL, b"503"), (BODY, b"503")):
            over = first.another()
            written = await over.send(sent + USUAL)
            assert [found for found, _ in answers(written)] == [status]
            assert b"connection: close" in written
            assert (b"retry-after: 1\r\n" in written) == (status == b"503")
            assert over.transport.over()
            over.protocol.connection_lost(None)
        assert b"200 OK" in await first.send(USUAL)

    run(test)


def test_the_end_of_connections_is_counted_and_ends_the_polling(
    inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        first = Connection(inference, True)
        second, cells = first.another(), inference.predictor.counters.cells
        stops: list[None] = []
        monkeypatch.setattr(first.shared.polling, "stop", lambda: stops.append(None))
        assert cells[COLUMNS.connections] == 2
        second.protocol.connection_lost(None)
        assert (cells[COLUMNS.connections], len(stops)) == (1, 0)
        first.protocol.connection_lost(None)
        assert (cells[COLUMNS.connections], len(stops)) == (0, 1)

    run(test)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("sent", [b"", b"GET", b"\r\n\r"])
def test_few_wait_past_the_limit_and_not_for_long(
    inference: Inference, fast: bool, sent: bytes
) -> None:
    async def test() -> None:
        first = Connection(inference, fast, ClientLimits(connections=5))
        others = [first.another() for _ in range(300)]
        kept = [one for one in others if not one.transport.closed]
        assert len(kept) == 4 + HEALTH_RESERVE
        for one in others[len(kept) :]:
            assert one.transport.written.startswith(b"HTTP/1.1 503 ")
            one.protocol.connection_lost(None)
        for number in range(2):
            for one in kept:
                await one.send(sent[number : number + 1])
            wait(first, 1)
        assert [one.transport.over() for one in kept] == [False] * 4 + [True] * HEALTH_RESERVE
        for one in kept[4:]:
            assert one.transport.written.startswith(b"HTTP/1.1 503 ")
        assert inference.predictor.counters.cells[COLUMNS.rejections["too many connections"]] >= 296

    run(test)


@pytest.mark.parametrize("fast", [True, False])
def test_clients_that_leave_answers_unread_are_closed(inference: Inference, fast: bool) -> None:
    """Closing waits until all responses are sent, however the connection came to be closed."""

    async def test() -> None:
        idle, last, gone = (Connection(inference, fast) for _ in range(3))
        await idle.send(USUAL)
        await last.send(CORPUS["close"])
        await gone.send(USUAL, eof=True)
        refused = Connection(inference, fast)
        await refused.send(USUAL + b"nonsense\r\n\r\n")
        wait(idle, 76)
        for one in (last, gone, refused):
            wait(one, 1)
        for one in (idle, last, gone, refused):
            wait(one, 3)
            assert one.transport.aborted

    run(test)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(
    "sent", [CORPUS["close"], USUAL + b"nonsense\r\n\r\n"], ids=["last", "bad"]
)
def test_clients_that_read_the_last_answers_slowly_get_them(
    inference: Inference, fast: bool, sent: bytes
) -> None:
    async def test() -> None:
        connection = Connection(inference, fast)
        connection.transport.unsent = 1000
        await connection.send(sent)
        assert connection.transport.over()
        for _ in range(20):
            connection.transport.unsent -= 10
            wait(connection, 1)
            assert not connection.transport.aborted
        wait(connection, 2)
        assert connection.transport.aborted
        patient = Connection(inference, fast, ClientLimits(keep_alive_seconds=10))
        patient.transport.unsent = 1000
        await patient.send(sent)
        for _ in range(14):
            patient.transport.unsent -= 1
            wait(patient, 1)
        assert patient.transport.aborted

    run(test)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("sent", [b"", USUAL, USUAL[:20], BODY + b"x", USUAL + USUAL[:9]])
def test_after_the_stop_nobody_is_waited_for_long(
    inference: Inference, fast: bool, sent: bytes
) -> None:
    async def test() -> None:
        connection = Connection(inference, fast)
        await connection.send(sent)
        connection.shared.connections.stop()
        connection.protocol.shutdown()
        wait(connection, 4)
        assert connection.transport.over()
        wait(connection, 3)
        assert connection.transport.closed
        unread = Connection(inference, fast)
        await unread.send(sent)
        unread.protocol.pause_writing()
        unread.shared.connections.stop()
        wait(unread, 6)
        assert unread.transport.aborted

    run(test)


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("eof", [True, False])
def test_an_application_that_waits_for_a_body(inference: Inference, fast: bool, eof: bool) -> None:
    """The time limit applies to the client although a response is pending."""

    async def test() -> None:
        ended = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            ended.set()

        connection = Connection(inference, fast, app=app)
        connection.protocol.data_received(BODY.replace(b"\r\n\r\n", EXPECT))
        await asyncio.sleep(0)
        if eof:
            connection.protocol.eof_received()
        wait(connection, 76)
        assert connection.transport.over()
        connection.protocol.connection_lost(None)
        await asyncio.wait_for(ended.wait(), 10)

    run(test)


def test_the_end_of_a_connection_ends_what_was_asked_before_the_last(
    inference: Inference, caplog: pytest.LogCaptureFixture
) -> None:
    async def test() -> None:
        connection = Connection(inference, False)
        connection.protocol.pause_writing()
        connection.protocol.data_received(USUAL * 3)
        await asyncio.sleep(0.01)  # the first answer waits until it can be written
        connection.transport.abort()
        connection.protocol.connection_lost(None)
        await asyncio.gather(*connection.state.tasks)
        assert not connection.transport.written

    run(test)
    assert "ERROR" not in caplog.text


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("sent", [USUAL, CORPUS["close"], BODY, USUAL * 3], ids=range(4))
def test_a_connection_is_freed_at_once(inference: Inference, fast: bool, sent: bytes) -> None:
    """A closed connection is freed without the garbage collector."""

    async def test() -> None:
        connection = Connection(inference, fast).another()
        await connection.send(sent)
        freed = weakref.ref(connection.protocol)
        connection.transport.close()
        connection.protocol.connection_lost(None)
        connection.transport.set_protocol(None)
        await asyncio.sleep(0)
        gc.disable()
        try:
            del connection
            await asyncio.sleep(0)
            assert freed() is None
        finally:
            gc.enable()

    run(test)


@pytest.mark.parametrize("fast", [True, False])
def test_an_application_that_answers_too_late(inference: Inference, fast: bool) -> None:
    """The answer to a request whose body turned bad, or whose client has gone, is dropped."""

    async def test() -> None:
        answer = asyncio.Event()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await answer.wait()
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})

        bad, gone = (Connection(inference, fast, app=app) for _ in range(2))
        chunked = BODY.replace(b"Content-Length: 900", b"Transfer-Encoding: chunked")
        bad.protocol.data_received(chunked.replace(b"\r\n\r\n", EXPECT))
        bad.protocol.data_received(b"z\r\n")
        gone.protocol.data_received(CORPUS["health"])
        gone.protocol.connection_lost(None)
        answer.set()
        for each in (bad, gone):
            await asyncio.gather(*each.state.tasks)
        assert bad.transport.written.count(b"HTTP/1.1 ") == 1
        assert b"400 Bad Request" in bad.transport.written
        assert not gone.transport.written

    run(test)
