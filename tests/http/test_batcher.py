"""Requests that arrive together share a forward; greedy, broken and vanished connections."""

import asyncio
from typing import Any

import pytest

from cartpole.api.inference import Inference
from cartpole.policy.contract import MAX_ROWS, Engine
from cartpole.predictor import Predictor
from tests.support.corpus import CORPUS, OTHER, USUAL
from tests.support.memory import Connection, answers
from tests.support.wrapped_engine import WrappedEngine


def test_one_forward_for_all_that_arrive_together(engine: Engine) -> None:
    counting = WrappedEngine(engine)

    async def run() -> None:
        connection = Connection(Inference(Predictor(counting)), True)
        others = [connection.another() for _ in range(3)]
        for each in (connection, *others):
            each.protocol.data_received(USUAL)
        await connection.rest()
        assert counting.sizes == [4]
        assert len({bytes(each.transport.written) for each in (connection, *others)}) == 1
        await connection.send(USUAL)
        assert counting.sizes == [4]  # a lone request takes the single path

    asyncio.run(run())


def test_the_only_connection_is_answered_at_once(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        await connection.send(USUAL)
        connection.protocol.data_received(USUAL)
        assert len(answers(bytes(connection.transport.written))) == 2
        assert connection.shared.turns.bytes_this_turn == 0
        other = connection.another()
        connection.protocol.data_received(USUAL)
        assert len(answers(bytes(connection.transport.written))) == 2
        other.protocol.connection_lost(None)
        await connection.rest()
        assert len(answers(bytes(connection.transport.written))) == 3

    asyncio.run(run())


def test_more_than_a_batch_in_one_turn(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        written = await connection.send(USUAL * 3000)
        assert [status for status, _ in answers(written)] == [b"200"] * 3000

    asyncio.run(run())


def test_a_full_batch_is_answered_within_the_turn(engine: Engine) -> None:
    counting = WrappedEngine(engine)

    async def run() -> None:
        first = Connection(Inference(Predictor(counting)), True)
        connections = [first, *(first.another() for _ in range(MAX_ROWS + 9))]
        for number, each in enumerate(connections, 1):
            each.protocol.data_received(USUAL)
            assert counting.sizes == ([] if number < MAX_ROWS else [MAX_ROWS])
        await connections[-1].rest()
        assert counting.sizes == [MAX_ROWS, 10]

    asyncio.run(run())


def test_a_forward_that_raises(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    failing = WrappedEngine(engine)

    async def run() -> None:
        connection = Connection(Inference(Predictor(failing)), True)
        failing.error = RuntimeError("no forward today")
        written = await connection.send(USUAL + CORPUS["bad"] + OTHER, USUAL + USUAL)
        assert [status for status, _ in answers(written)] == [b"500", b"400"] + [b"500"] * 3
        assert len(caplog.records) == 1
        failing.error = None
        written = await connection.send(USUAL + OTHER)
        assert [status for status, _ in answers(written)][-2:] == [b"200", b"200"]

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_an_encoder_that_fails(
    engine: Engine, fast: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> Any:
        raise TypeError("no encoding today")

    async def run() -> None:
        connection = Connection(Inference(Predictor(engine)), fast)
        with monkeypatch.context() as patch:
            patch.setattr("cartpole.api.inference.render", fail)
            written = await connection.send(USUAL, USUAL + OTHER + CORPUS["bad"], USUAL)
        assert [status for status, _ in answers(written)] == [b"500"] * 3 + [b"400", b"500"]
        assert [record.getMessage() for record in caplog.records] == [
            "forward failed: no encoding today"
        ]
        assert (await connection.send(USUAL)).endswith(b"}")
        assert answers(bytes(connection.transport.written))[-1][0] == b"200"

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_a_greedy_client_lets_others_go_between(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        greedy = Connection(inference, fast)
        modest = greedy.another()
        for _ in range(2):
            greedy.protocol.data_received(USUAL * 1000)
        modest.protocol.data_received(USUAL)
        assert greedy.transport.reading_paused
        while not modest.transport.written:
            await asyncio.sleep(0)
        assert greedy.transport.written.count(b"HTTP/1.1 200 OK") < 200
        greedy.protocol.data_received(OTHER)  # TLS may deliver data although reading is paused
        await greedy.rest()
        await greedy.rest()
        received = answers(bytes(greedy.transport.written))
        assert [status for status, _ in received] == [b"200"] * 2001
        assert [body for _, body in received[-2:]] != [received[0][1]] * 2  # in order
        assert not greedy.transport.reading_paused

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_deferred_requests_survive_a_half_close(inference: Inference, fast: bool) -> None:
    async def run() -> None:
        connection = Connection(inference, fast)
        for _ in range(2):
            connection.protocol.data_received(USUAL * 50)
        assert connection.protocol.eof_received()  # it stays open
        connection.protocol._times.idle = connection.protocol._times.message = 1000
        connection.protocol.check_time()
        await connection.rest()
        assert len(answers(bytes(connection.transport.written))) == 100
        assert connection.transport.closed

    asyncio.run(run())


def test_no_more_is_read_while_requests_wait(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, False)
        connection.protocol.data_received(USUAL * 100)
        while connection.protocol._unread:
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
        connection.shared.connections.stop()
        connection.shared.connections._seconds_stopping = 1000  # with the batch still pending
        connection.protocol._times.idle = 1000
        connection.shared.connections.sweep(asyncio.get_running_loop())
        assert len(answers(bytes(connection.transport.written))) == 1
        assert connection.transport.closed  # and only then

    asyncio.run(run())


def test_a_client_that_vanishes_costs_nobody_else(inference: Inference) -> None:
    async def run() -> None:
        gone = Connection(inference, True)
        there = gone.another()
        gone.protocol.data_received(USUAL)
        there.protocol.data_received(USUAL)
        gone.transport.abort()
        gone.protocol.connection_lost(ConnectionResetError())
        await there.rest()
        assert gone.transport.written == b""
        assert b"200 OK" in there.transport.written

    asyncio.run(run())
