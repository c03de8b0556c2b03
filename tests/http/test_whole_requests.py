"""One request, one final answer: bodies that turn bad, too large or too slow.

In memory, in both modes.
"""

import asyncio
from typing import Any

import pytest

from cartpole.api.inference import Inference
from cartpole.http.connections import UNFINISHED_GRACE_SECONDS
from cartpole.http.limits import ClientLimits
from tests.support.body_reader import read_body, reading
from tests.support.conditions import TLSClient
from tests.support.corpus import CHUNKED, EXPECTING, OTHER, POST, USUAL, request
from tests.support.memory import SERVED, Connection, both, statuses, wait

# name: (parts sent, status of the last request's only response)
BAD_BODIES = {
    "bad chunk": ([CHUNKED, b"z\r\n"], 400),
    "bad chunk after a good one": ([CHUNKED + b"3\r\nabc\r\n", b"0x\r\n"], 400),
    "chunk longer than its size": ([CHUNKED, b"1\r\na", b"b\r\n0\r\n\r\n"], 400),
    "bad trailer": ([CHUNKED + b"0\r\n", b"no colon\r\n\r\n"], 400),
    "too large": ([CHUNKED, b"3e9\r\n" + b"x" * 1001, b"\r\n0\r\n\r\n" + USUAL], 413),
    "too large in pieces": ([CHUNKED, *[b"64\r\n" + b"x" * 100 + b"\r\n"] * 11], 413),
    "too large by a byte": ([CHUNKED, b"3e9\r\n", b"x" * 1001], 413),
    "extensions of many chunks": ([CHUNKED, *[b"1;" + b"x" * 99 + b"\r\na\r\n"] * 13], 413),
    "endless extension": ([CHUNKED, b"1;", *[b"x" * 100] * 11], 413),
    "too large by its length": ([request("", "Content-Length: 1001", start=POST), b"x"], 413),
    "too large, expecting": (
        [request("", "Content-Length: 1001", "Expect: 100-continue", start=POST)], 413),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_has_one_answer(inference: Inference, name: str) -> None:
    parts, status = BAD_BODIES[name]
    for before in (b"", USUAL, USUAL + request(start="HEAD /inference?{} HTTP/1.1")):
        expected = [200] * before.count(b"Host") + [status]
        ways = [[before, *parts], [before + parts[0], *parts[1:]]]
        if name != "endless extension":  # in one read it is not yet endless
            ways.append([before + b"".join(parts)])
        for sent in ways:
            answer = both(inference, [part for part in sent if part])
            assert statuses(answer) == expected
            assert answer.count(b"connection: close") == 1


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_requests_pipelined_behind_a_body_are_answered(inference: Inference, method: str) -> None:
    start = method + " /inference?{} HTTP/1.1"
    status = 400 if method == "POST" else 200  # the body is no JSON
    framed = (
        request(start=start) + USUAL,
        request("position=0&velocity=0&angle=-1&angular_velocity=0", "Content-Length: 5",
                start=start) + b"hello" + USUAL,
        request("position=0&velocity=0&angle=-1&angular_velocity=0", "Transfer-Encoding: chunked",
                start=start) + b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n" + USUAL,
        request("position=0&velocity=0&angle=-1&angular_velocity=0", "Content-Length: 5",
                "Connection: Upgrade", "Upgrade: x", start=start) + b"hello" + USUAL,
    )  # fmt: skip
    for stream in framed:
        for cut in range(len(stream)):
            answer = both(inference, [OTHER + stream[:cut], stream[cut:]])
            assert statuses(answer) == [200, status, 200]


@SERVED
def test_a_large_body_in_pieces(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = reading(inference, fast, ClientLimits(body_bytes=1_000_000))
        head = request("", "Content-Length: 1000000", start=POST)
        answer = await connection.send(head, *[b"x" * 50_000] * 20)
        assert answer.endswith(b"\r\n\r\n1000000")
        assert not connection.transport.reading_paused
        assert b"200 OK" in (await connection.send(USUAL))[len(answer) :]

    asyncio.run(run())


@SERVED
def test_close_as_a_trailer_has_no_effect(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        sent = CHUNKED + b"5\r\nhello\r\n0\r\nConnection: close\r\n\r\n"
        for parts in ([sent + USUAL + sent + OTHER], [sent, USUAL, sent, OTHER]):
            answer = await Connection(inference, fast).send(*parts)
            assert statuses(answer) == [405, 200, 405, 200]

    asyncio.run(run())


@SERVED
def test_the_application_sees_no_trailers(inference: Inference, fast: bool) -> None:
    """RFC 9110, 6.5.1: they are not merged into the headers."""

    async def run() -> None:
        seen: list[Any] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            seen.extend(name for name, _ in scope["headers"])
            await read_body(scope, receive, send)

        connection = Connection(inference, fast, app=app)
        await connection.send(CHUNKED, b"0\r\nX-User: admin\r\n\r\n")
        assert seen == [b"host", b"transfer-encoding"]

    asyncio.run(run())


@SERVED
@pytest.mark.parametrize("parts", [[CHUNKED], [CHUNKED, b"5\r\nhel"], [EXPECTING, b"ab"]])
def test_the_end_of_sending_within_a_body(
    inference: Inference, fast: bool, parts: list[bytes]
) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        answer = await connection.send(USUAL, *parts, eof=True)
        assert [status for status in statuses(answer) if status != 100] == [200]
        assert connection.transport.closed

    asyncio.run(run())


@SERVED
@pytest.mark.parametrize("head", [CHUNKED, EXPECTING], ids=["chunked", "expecting"])
def test_a_slow_body_has_one_answer(
    inference: Inference, fast: bool, head: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        await connection.send(head)
        wait(connection, 75)
        connection.protocol.data_received(b"")
        assert statuses(bytes(connection.transport.written)) in ([], [100])
        wait(connection, 1)
        await connection.rest()
        (*_, last) = statuses(bytes(connection.transport.written))
        assert last == 408
        assert connection.transport.written.count(b"HTTP/1.1 ") == 1 + (head == EXPECTING)
        assert connection.transport.ended
        wait(connection, 2)
        assert connection.transport.closed

    asyncio.run(run())
    assert not caplog.records  # the application learns of the disconnect; that is no error to log


@SERVED
def test_a_body_that_comes_while_the_service_stops(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        await connection.send(request("", "Content-Length: 3", start=POST), b"a")
        connection.shared.connections.stop()
        connection.protocol.shutdown()
        wait(connection, UNFINISHED_GRACE_SECONDS)
        assert not connection.transport.closed
        answer = await connection.send(b"bc")
        assert statuses(answer) == [200]
        assert b"connection: close" in answer
        assert connection.transport.over()

    asyncio.run(run())


@SERVED
def test_half_close_after_a_bad_request(inference: Inference, fast: bool) -> None:
    """Requests before the malformed one are answered first."""

    async def run() -> None:
        connection = Connection(inference, fast)
        answer = await connection.send(USUAL + USUAL + b"nonsense\r\n\r\n", eof=True)
        assert statuses(answer) == [200, 200, 400]
        assert connection.transport.closed

    asyncio.run(run())


@SERVED
def test_an_idle_connection_keeps_no_body(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast, ClientLimits(body_bytes=1_000_000))
        for start in (POST, "POST /inference?{} HTTP/1.1", "GET /inference?{} HTTP/1.1"):
            head = request("", "Content-Length: 900000", start=start)
            for _ in range(2):
                await connection.send(head + b"x" * 900_000)
            reader = connection.protocol._reader
            held = [
                value for value in vars(reader).values() if isinstance(value, bytes | bytearray)
            ]
            assert sum(map(len, [*held, reader._previous.body])) < 10_000

    asyncio.run(run())


@SERVED
def test_many_small_chunks_are_read_in_several_turns(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        connection.protocol.data_received(CHUNKED + b"1\r\na\r\n" * 900 + b"0\r\n\r\n" + USUAL)
        assert connection.protocol._is_deferred
        answer = await connection.send()
        assert statuses(answer) == [200, 200]
        assert b"\r\n\r\n900HTTP" in answer

    asyncio.run(run())


@SERVED
def test_a_long_chunk_extension_is_not_kept(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = reading(inference, fast)
        await connection.send(CHUNKED + b"00000000000001;", *[b"x" * 90] * 10)
        assert len(connection.protocol._reader._line) < 20
        answer = await connection.send(b"\r\na\r\n0\r\n\r\n")
        assert answer.endswith(b"\r\n\r\n1")

    asyncio.run(run())


@SERVED
def test_a_client_that_goes_takes_its_work_along(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        ended: list[str] = []

        async def app(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                ended.append(scope["path"])

        connection = Connection(inference, fast, app=app)
        connection.protocol.data_received(request("", start=POST))
        await asyncio.sleep(0)
        connection.transport.abort()
        connection.protocol.connection_lost(None)
        await asyncio.sleep(0)
        assert ended == ["/health/live"]
        await asyncio.sleep(0)
        assert not connection.state.tasks

    asyncio.run(run())


def test_bytes_behind_a_close_notify_are_not_kept(inference: Inference) -> None:
    """An answer is still awaited, so the transport goes on reading."""

    async def run() -> None:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(1000)

        client = TLSClient(Connection(inference, False, app=app))
        client.send(request("", start=POST))
        client.close_notify()
        for _ in range(100):
            client._server.data_received(b"x" * 10_000)
        assert client._server._incoming.pending < 10_000
        client._server.connection_lost(None)
        await asyncio.sleep(0)

    asyncio.run(run())
