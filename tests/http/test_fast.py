"""The fast path and the ASGI application, held against each other on the same bytes."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartpole.api.observation import NAMES
from cartpole.app import Inference
from cartpole.http.fast import Batch
from cartpole.policy.torchscript import Runner
from tests.support.corpus import CORPUS, EXPECTED, OTHER, USUAL, request
from tests.support.memory import Connection, answers, both, statuses
from tests.support.paths import GOLDEN


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("eof", [False, True])
def test_corpus(inference: Inference, name: str, eof: bool) -> None:
    assert statuses(both(inference, [CORPUS[name]], eof)) == [EXPECTED[name]]


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_between_fast_requests(inference: Inference, name: str) -> None:
    for parts in (
        [USUAL, CORPUS[name], USUAL, OTHER],
        [USUAL + CORPUS[name] + USUAL + OTHER],
    ):
        answer = both(inference, parts)
        after = [] if b"\r\nconnection: close\r\n" in answer else [200, 200]
        assert statuses(answer) == [200, EXPECTED[name], *after]


@pytest.mark.parametrize(
    "name", ["usual", "percent-encoded", "body", "chunked", "close", "bad header", "bad"]
)
def test_split_at_every_byte(inference: Inference, name: str) -> None:
    stream = OTHER + CORPUS[name] + USUAL
    expected = [200, EXPECTED[name], *([] if name in ("close", "bad header") else [200])]
    for cut in range(1, len(stream)):
        assert statuses(both(inference, [stream[:cut], stream[cut:]])) == expected
    bytewise = both(inference, [stream[index : index + 1] for index in range(len(stream))])
    assert statuses(bytewise) == expected


def test_every_prefix_then_end(inference: Inference) -> None:
    for length in range(len(USUAL) + 1):
        answer = both(inference, [USUAL[:length]], eof=True)
        assert (b"200 OK" in answer) == (length == len(USUAL))


VALUES = st.sampled_from(["0", "-1.5", "%31", "1e5", "nan", "", "1_0", "%2B1", "+1", "3.5e38", "x"])
QUERIES = st.lists(st.tuples(st.sampled_from([*NAMES, "x"]), VALUES), max_size=6).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
)
GOOD = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4
).map(lambda values: "&".join(f"{n}={v}".replace("+", "%2B") for n, v in zip(NAMES, values)))  # noqa: B905
REQUESTS = st.one_of(GOOD.map(request), QUERIES.map(request), st.sampled_from([*CORPUS.values()]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(REQUESTS, st.binary(max_size=20)), max_size=6), st.data())
def test_made_streams(inference: Inference, requests: list[bytes], data: Any) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    edges = [0, *cuts, len(stream)]
    parts = [stream[a:b] for a, b in pairwise(edges) if a < b]
    both(inference, parts, eof=data.draw(st.booleans()))


def test_a_thousand_pipelined_half_of_them_bad(inference: Inference) -> None:
    chance = random.Random(1)
    queries = [
        f"position={chance.random()}&velocity=0&angle=0&angular_velocity=0" for _ in range(500)
    ]
    requests = [request(query) for good in queries for query in (good, "position=1")]

    async def run(fast: bool) -> bytes:
        return await Connection(inference, fast).send(b"".join(requests))

    written = asyncio.run(run(True))
    assert len(answers(written)) == 1000
    assert [status for status, _ in answers(written)] == [b"200", b"400"] * 500
    for query, (_, body) in zip(queries, answers(written)[::2], strict=True):
        assert body == inference.answer(query.encode())[1]


def test_stays_fast_and_becomes_fast_again(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        entered: list[Any] = []
        app = connection.protocol.app

        async def counted(*arguments: Any) -> None:
            entered.append(arguments[0]["path"])
            await app(*arguments)

        connection.protocol.app = counted
        await connection.send(USUAL, OTHER + USUAL, CORPUS["other order"], CORPUS["bad"])
        assert entered == []
        await connection.send(CORPUS["head"])
        assert entered == ["/inference"]
        await connection.send(USUAL, CORPUS["many headers"], USUAL)
        assert entered == ["/inference"]
        await connection.send(CORPUS["health"] + USUAL)
        await connection.send(USUAL, CORPUS["body"], USUAL[:20], USUAL[20:], USUAL)
        assert entered == ["/inference", "/health/ready", *["/inference"] * 3]
        assert len(answers(bytes(connection.transport.written))) == 14  # and one without a body

    asyncio.run(run())


def test_one_forward_for_all_that_arrive_together(runner: Runner) -> None:
    class Counting(Runner):
        sizes: list[int] = []  # noqa: RUF012

        def batch(self, observations: Any) -> Any:
            self.sizes.append(len(observations))
            return super().batch(observations)

    counting = Counting(runner.policy)
    counting.sizes.clear()  # of the start's checks

    async def run() -> None:
        connection = Connection(Inference(counting), True)
        others = [Connection(Inference(counting), True) for _ in range(3)]
        for other in others:
            other.protocol.worker = connection.worker
        for each in (connection, *others):
            each.protocol.data_received(USUAL)
        await connection.rest()
        assert counting.sizes == [4]
        assert len({bytes(each.transport.written) for each in (connection, *others)}) == 1
        await connection.send(USUAL)
        assert counting.sizes == [4]  # a lone request takes the single path

    asyncio.run(run())


def test_more_than_a_batch_in_one_turn(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        written = await connection.send(USUAL * 3000)
        assert [status for status, _ in answers(written)] == [b"200"] * 3000

    asyncio.run(run())


def test_a_forward_that_raises(runner: Runner, caplog: pytest.LogCaptureFixture) -> None:
    failing = Runner(runner.policy)
    one, batch = failing.one, failing.batch

    def fail(*_: Any) -> Any:
        raise RuntimeError("no forward today")

    async def run() -> None:
        connection = Connection(Inference(failing), True)
        failing.one = failing.batch = fail  # type: ignore[method-assign,assignment]
        written = await connection.send(USUAL + CORPUS["bad"] + OTHER, USUAL + USUAL)
        assert [status for status, _ in answers(written)] == [b"500", b"400"] + [b"500"] * 3
        assert len(caplog.records) == 1
        failing.one, failing.batch = one, batch  # type: ignore[method-assign]
        written = await connection.send(USUAL + OTHER)
        assert [status for status, _ in answers(written)][-2:] == [b"200", b"200"]

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_an_encoder_that_fails(
    runner: Runner, fast: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise TypeError("no encoding today")

    async def run() -> None:
        connection = Connection(Inference(runner), fast)
        with monkeypatch.context() as patch:
            patch.setattr("cartpole.app.render", fail)
            written = await connection.send(USUAL, USUAL + OTHER + CORPUS["bad"], USUAL)
        assert [status for status, _ in answers(written)] == [b"500"] * 3 + [b"400", b"500"]
        assert [record.getMessage() for record in caplog.records] == [
            "forward failed: no encoding today"
        ]
        assert (await connection.send(USUAL)).endswith(b"}")
        assert answers(bytes(connection.transport.written))[-1][0] == b"200"

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_who_asks_much_at_once_lets_others_go_between(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        greedy, modest = Connection(inference, fast), Connection(inference, fast)
        modest.protocol.worker = greedy.worker
        for _ in range(2):
            greedy.protocol.data_received(USUAL * 1000)
        modest.protocol.data_received(USUAL)
        assert greedy.transport.reading_paused
        while not modest.transport.written:
            await asyncio.sleep(0)
        assert greedy.transport.written.count(b"HTTP/1.1 200 OK") < 200
        greedy.protocol.data_received(OTHER)  # as TLS may, though it was told not to
        await greedy.rest()
        await greedy.rest()
        received = answers(bytes(greedy.transport.written))
        assert [status for status, _ in received] == [b"200"] * 2001
        assert [body for _, body in received[-2:]] != [received[0][1]] * 2  # in order
        assert not greedy.transport.reading_paused

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_what_is_held_survives_the_end_of_what_is_sent(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        for _ in range(2):
            connection.protocol.data_received(USUAL * 50)
        assert connection.protocol.eof_received()  # it stays open
        connection.worker.second += 1000
        connection.protocol.check_time()
        await connection.rest()
        assert len(answers(bytes(connection.transport.written))) == 100
        assert connection.transport.closed

    asyncio.run(run())


def test_uvicorn_reads_no_more_while_requests_wait(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, False)
        connection.protocol.data_received(USUAL * 100)
        while connection.protocol.pipeline:
            assert connection.transport.reading_paused
            await asyncio.sleep(0)
        await connection.rest()
        assert not connection.transport.reading_paused
        assert len(answers(bytes(connection.transport.written))) == 100

    asyncio.run(run())


def test_time_that_runs_out_while_a_batch_is_pending(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        connection.protocol.data_received(USUAL)
        connection.worker.stop()
        connection.worker.second += 1000  # as after a long stop, before the batch is answered
        connection.worker._sweep(asyncio.get_running_loop())
        assert len(answers(bytes(connection.transport.written))) == 1
        assert connection.transport.closed  # and only then

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_time_limits(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        def wait(connection: Connection, seconds: int) -> None:
            for _ in range(seconds):
                connection.worker.second += 1
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
        connection.worker.second += 76
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
            connection.worker.stop()
            connection.protocol.data_received(USUAL)
            await connection.rest()
        assert connection.transport.written.count(b"HTTP/1.1 200 OK") == 1 + fast
        assert connection.transport.written.count(b"connection: close\r\n") == 1
        assert connection.transport.closed

    asyncio.run(run())


def test_a_client_that_vanishes_costs_nobody_else(inference: Inference) -> None:
    async def run() -> None:
        gone, there = Connection(inference, True), Connection(inference, True)
        there.protocol.worker = gone.worker
        gone.protocol.data_received(USUAL)
        there.protocol.data_received(USUAL)
        gone.transport.abort()
        gone.protocol.connection_lost(ConnectionResetError())
        await there.rest()
        assert gone.transport.written == b""
        assert b"200 OK" in there.transport.written

    asyncio.run(run())


def test_header_blocks_are_remembered_within_bounds(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        assert isinstance(connection.worker, Batch)
        for number in range(1500):
            await connection.send(request(GOLDEN, f"X: {number}"))
        assert len(connection.worker.blocks._known) <= 1024
        assert len(answers(bytes(connection.transport.written))) == 1500

    asyncio.run(run())


def test_the_date_is_that_of_the_second(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        await connection.send(USUAL)
        connection.state.default_headers = [(b"date", b"later"), (b"x", b"y")]
        assert b"\r\ndate: later\r\nx: y\r\ncontent-type" in await connection.send(USUAL)

    asyncio.run(run())
