"""Small batches: answered without ASGI on the fast path, byte for byte as the application does."""

import asyncio
import gzip
import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartpole.api.batches import LIGHT_BYTES
from cartpole.api.inference import Inference
from cartpole.http.limits import ClientLimits
from cartpole.policy.contract import Engine
from cartpole.predictor import Predictor
from tests.support.corpus import OTHER, USUAL
from tests.support.memory import SERVED, Connection, both, statuses
from tests.support.v2 import INFER, ROW, binary, infer, pack, tensor, wanted
from tests.support.wrapped_engine import WrappedEngine

ROWS = json.dumps({"observations": [ROW, [1, 2, 3, 4]]}).encode()


def posted(body: bytes, *lines: str, path: str = INFER, chunks: int = 0, start: str = "") -> bytes:
    framing = "Transfer-Encoding: chunked" if chunks else f"Content-Length: {len(body)}"
    head = "\r\n".join([start or f"POST {path} HTTP/1.1", "Host: x", framing, *lines, "", ""])
    if chunks:
        pieces = [body[i : i + chunks] for i in range(0, len(body), chunks)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"
    return head.encode() + body


TENSOR, LENGTH = binary(pack([ROW]), 1, outputs=wanted("action", "logits"))
SIZE = f"Inference-Header-Content-Length: {LENGTH[1].decode()}"
REQUESTS = {
    "json": (posted(infer()), 200),
    "version": (posted(infer(), path=INFER.replace("cartpole/", "cartpole/versions/1/")), 200),
    "binary": (posted(TENSOR, SIZE), 200),
    "raw": (posted(pack([ROW]), "Inference-Header-Content-Length: 0"), 200),
    "chunked": (posted(TENSOR, SIZE, chunks=7), 200),
    "rows": (posted(ROWS, path="/inference"), 200),
    "rows and a query": (posted(ROWS, path="/inference?position=x"), 200),
    "compressed": (posted(gzip.compress(infer()), "Content-Encoding: gzip"), 200),
    "compressed reply": (posted(TENSOR, SIZE, "Accept-Encoding: gzip"), 200),
    "expecting": (posted(TENSOR, SIZE, "Expect: 100-continue"), 200),
    "bad": (posted(b"{"), 400),
    "bad rows": (posted(b"{}", path="/inference"), 400),
    "empty": (posted(b""), 400),
    "no length": (posted(b"").replace(b"Content-Length: 0\r\n", b""), 400),
    "bad length": (posted(TENSOR, "Inference-Header-Content-Length: -1"), 400),
    "other coding": (posted(b"", "Content-Encoding: br"), 415),
    "other model": (posted(infer(), path=INFER.replace("cartpole", "x")), 404),
    "put": (posted(infer(), start=f"PUT {INFER} HTTP/1.1"), 405),
    "get": (posted(infer(), start=f"GET {INFER} HTTP/1.1"), 405),
}
LAST = {
    "close": (posted(TENSOR, SIZE, "Connection: close"), 200),
    "http/1.0": (posted(TENSOR, SIZE, start=f"POST {INFER} HTTP/1.0"), 200),
    "close after an error": (posted(b"{", "Connection: close"), 400),
}


@pytest.mark.parametrize("name", [*REQUESTS, *LAST])
def test_both_ways_answer_alike(inference: Inference, name: str) -> None:
    sent, status = (REQUESTS | LAST)[name]
    after = [] if name in LAST else [200, 200]
    for parts in ([USUAL, sent, USUAL, OTHER], [USUAL + sent + USUAL + OTHER]):
        found = [one for one in statuses(both(inference, parts)) if one != 100]
        assert found == [200, status, *after]
    assert status in statuses(both(inference, [sent], eof=True))


@pytest.mark.parametrize("name", ["binary", "chunked", "rows", "bad", "expecting"])
def test_split_at_every_byte(inference: Inference, name: str) -> None:
    sent, status = REQUESTS[name]
    stream = OTHER + sent + USUAL
    for cut in range(1, len(stream), 3):
        found = statuses(both(inference, [stream[:cut], stream[cut:]]))
        assert [one for one in found if one != 100] == [200, status, 200]


@settings(deadline=None, max_examples=150)
@given(names=st.lists(st.sampled_from([*REQUESTS]), max_size=6), cut=st.integers(1, 3000))
def test_any_sequence(inference: Inference, names: list[str], cut: int) -> None:
    whole = [REQUESTS[name] for name in names]
    stream = b"".join(itertools.chain(*([sent, USUAL] for sent, _ in whole)))
    found = statuses(both(inference, [part for part in (stream[:cut], stream[cut:]) if part]))
    expected = [status for _, one in whole for status in (one, 200)]
    assert [one for one in found if one != 100] == expected


def test_it_does_not_enter_the_application(inference: Inference) -> None:
    async def run() -> None:
        async def fail(scope: object, receive: object, send: object) -> None:
            raise AssertionError("the application was asked")

        connection = Connection(inference, True, app=fail)
        for name in ("json", "binary", "rows", "bad", "chunked"):
            connection.transport.written.clear()
            connection.protocol.data_received(REQUESTS[name][0])
            assert statuses(bytes(connection.transport.written)) == [REQUESTS[name][1]]

    asyncio.run(run())


@pytest.mark.parametrize("name", REQUESTS)
def test_what_only_resembles_the_request_before(inference: Inference, name: str) -> None:
    sent, status = REQUESTS[name]
    expected = [status, status, 200]
    for cut in range(1, len(sent), 5):  # a head again, but the rest later
        answer = both(inference, [sent, sent[:cut], sent[cut:], USUAL])
        assert [one for one in statuses(answer) if one != 100] == expected
    closing = sent.replace(b"Host: x", b"Connection: close\r\nHost: x")
    answer = both(inference, [sent, closing, USUAL])
    assert [one for one in statuses(answer) if one != 100] == [status, status]
    both(inference, [sent, sent + b"x", USUAL])
    both(inference, [sent, sent[:-1] + USUAL])
    both(inference, [sent, sent], eof=True)


def test_only_the_request_before_is_remembered(inference: Inference) -> None:
    rows, chunked = REQUESTS["rows"][0], REQUESTS["chunked"][0]
    assert statuses(both(inference, [rows, chunked, chunked, rows])) == [200] * 4


def test_repeated_requests_keep_the_bounds_of_a_turn(inference: Inference) -> None:
    async def run() -> None:
        sent = REQUESTS["binary"][0]
        connection = Connection(inference, True)
        once = await connection.send(sent)
        turns = connection.shared.turns
        turns.count(turns.bytes_per_turn + 1)
        connection.protocol.data_received(sent)
        assert connection.protocol._is_deferred
        await connection.rest()
        assert bytes(connection.transport.written) == once * 2
        connection.shared.connections.stop()
        connection.protocol.shutdown()
        connection.protocol.data_received(sent)
        await connection.rest()
        assert connection.transport.written.count(b"connection: close") == 1
        assert connection.transport.over()

    asyncio.run(run())


def test_behind_an_answer_that_is_not_complete_it_keeps_its_place(inference: Inference) -> None:
    health = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = both(inference, [health + REQUESTS["json"][0] * 300 + health])
    assert statuses(answer) == [200] * 302


def test_a_client_that_reads_nothing_is_left_to_the_application(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        await connection.send(USUAL)
        before = len(connection.transport.written)
        connection.protocol.pause_writing()
        connection.protocol.data_received(REQUESTS["binary"][0])
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(connection.transport.written) == before
        connection.protocol.resume_writing()
        await connection.rest()
        assert statuses(bytes(connection.transport.written)) == [200, 200]

    asyncio.run(run())


@SERVED
def test_100_continue_for_a_body_that_is_wanted(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        limits = ClientLimits(body_bytes=400_000)
        connection = Connection(inference, fast, limits)
        body = infer(tensor(4096, datatype="FP64"))
        assert len(body) > 65536 > LIGHT_BYTES
        sent = posted(body, "Expect: 100-continue")
        await connection.send(sent[: -len(body)])
        assert connection.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
        answer = await connection.send(*[body[i : i + 9999] for i in range(0, len(body), 9999)])
        assert statuses(answer) == [100, 200]
        assert not connection.transport.reading_paused
        refused = posted(body, "Expect: 100-continue", "Content-Encoding: br")
        answer = await connection.send(refused[: -len(body)])
        assert statuses(answer) == [100, 200, 415]  # without asking for the body
        assert connection.transport.over()

    asyncio.run(run())


@SERVED
def test_a_body_over_the_limit(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        for sent in (posted(bytes(1001)), posted(bytes(1001), chunks=500)):
            connection = Connection(inference, fast)
            assert statuses(await connection.send(sent)) == [413]
            assert connection.transport.over()

    asyncio.run(run())


def test_a_failing_forward(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    wrapped = WrappedEngine(engine)
    inference = Inference(Predictor(wrapped))
    wrapped.error = RuntimeError("no forward today")
    for name in ("json", "rows"):
        answer = both(inference, [REQUESTS[name][0]])
        assert answer.endswith(b'{"error":"internal error"}')
    assert [record.message for record in caplog.records] == ["forward failed: no forward today"]
    wrapped.error = None
    inference.failures._throttle._quiet_until = 0
    assert statuses(both(inference, [REQUESTS["json"][0]])) == [200]
    assert caplog.messages[1].startswith("forward recovered")


@pytest.mark.parametrize(
    "parts",
    [
        pytest.param([REQUESTS["rows"][0]] * 2, id="a POST with the head of the one before"),
        pytest.param([USUAL, USUAL + OTHER[:20]], id="GET, and a part of another request"),
    ],
)
def test_whatever_is_answered_is_an_answer_to_polling_and_rehearsal(
    inference: Inference, parts: list[bytes]
) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        turns = connection.shared.turns
        for number, part in enumerate(parts, 1):
            turns.answered_at = 0
            assert statuses(await connection.send(part)) == [200] * number
            assert turns.answered_at > 0

    asyncio.run(run())


@pytest.mark.parametrize("name", ["rows", "usual"])
def test_no_answer_is_begun_while_the_one_before_is_not_read(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The transport pauses writing from within its write, and TLS may have more to read."""

    async def run() -> None:
        sent = REQUESTS["rows"][0] if name == "rows" else USUAL
        connection = Connection(inference, True)
        await connection.send(sent, sent)
        write = connection.transport.write

        def write_and_pause(data: bytes) -> None:
            write(data)
            connection.protocol.pause_writing()

        monkeypatch.setattr(connection.transport, "write", write_and_pause)
        for _ in range(3):
            connection.protocol.data_received(sent)
        await asyncio.sleep(0)
        assert statuses(bytes(connection.transport.written)) == [200] * 3
        monkeypatch.undo()
        connection.protocol.resume_writing()
        assert statuses(await connection.send()) == [200] * 5

    asyncio.run(run())
