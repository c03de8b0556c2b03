"""A failing connection does not affect others, and turns go on."""

import asyncio
from typing import Any

import pytest

from cartpole.api.inference import Inference
from cartpole.logs import QUIET_SECONDS, Failures
from tests.support.corpus import USUAL
from tests.support.memory import Connection, answers


def fail(*_: Any) -> Any:
    raise RuntimeError("not today")


def together(inference: Inference, fast: bool, number: int) -> list[Connection]:
    """Connections of one process."""
    first = Connection(inference, fast)
    return [first, *(first.another() for _ in range(number - 1))]


def ok(connection: Connection) -> int:
    return len([status for status, _ in answers(bytes(connection.transport.written))])


def test_a_turn_without_an_answer_is_not_one_that_served(inference: Inference) -> None:
    """Polling and rehearsal follow answers; empty lines must not keep a core busy."""

    async def run() -> None:
        connection = Connection(inference, True)
        for data in (b"\r\n", b"\r\n\r\n", USUAL[:50]):
            await connection.send(data)
            assert connection.shared.turns.answered_at == 0
        await connection.send(USUAL[50:])
        assert connection.shared.turns.answered_at > 0

    asyncio.run(run())


def test_a_write_that_raises_costs_only_its_connection(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        connections = together(inference, True, 5)
        bad = (connections[1], connections[2], connections[4])
        for one in bad:
            monkeypatch.setattr(one.transport, "write", fail)
        for one in connections:
            one.protocol.data_received(USUAL)
        for one in connections:
            await one.rest()
        assert [ok(one) for one in connections] == [1, 0, 0, 1, 0]
        assert [one.transport.aborted for one in connections] == [False, True, True, False, True]
        assert connections[0].shared.turns.bytes_this_turn == 0
        await connections[0].send(USUAL)
        assert ok(connections[0]) == 2

    asyncio.run(run())
    (record,) = caplog.records  # one line and traceback, however many
    assert record.exc_info
    assert "not today" in str(record.exc_info[1])


def test_a_batch_that_can_not_be_answered_ends_its_connections(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        connections = together(inference, True, 3)
        with monkeypatch.context() as patch:
            patch.setattr(inference.predictor.counters, "record_answers", fail)
            for one in connections[:2]:
                one.protocol.data_received(USUAL)
            await connections[0].rest()
        assert [one.transport.aborted for one in connections] == [True, True, False]
        await connections[2].send(USUAL)
        assert ok(connections[2]) == 1

    asyncio.run(run())
    assert len(caplog.records) == 1


@pytest.mark.parametrize("fast", [True, False])
def test_a_held_read_that_raises_costs_only_its_connection(
    inference: Inference,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        bad, good = together(inference, fast, 2)
        await bad.send(USUAL)
        await good.send(USUAL)
        bad.shared.turns.begin()
        bad.shared.turns.bytes_this_turn = (
            bad.shared.turns.bytes_per_turn + 1
        )  # the turn's budget is spent: other connections are deferred
        monkeypatch.setattr(bad.protocol, "_take_request", fail)
        monkeypatch.setattr(bad.protocol, "_take_inference", fail)
        for one in (bad, good):
            one.protocol.data_received(USUAL)
            assert one.protocol._is_deferred
        await good.rest()
        await asyncio.sleep(0)
        assert bad.transport.aborted
        assert ok(good) == 2
        while good.shared.turns.bytes_this_turn:
            await asyncio.sleep(0)
        await good.send(USUAL)
        assert ok(good) == 3

    asyncio.run(run())
    assert len(caplog.records) == 1


def test_turns_go_on_whatever_is_raised(
    inference: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors outside any connection reach the event loop, which logs them."""

    async def run() -> None:
        met: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: met.append(context))
        (connection,) = together(inference, True, 1)
        await connection.send(USUAL)
        turns = connection.shared.turns
        turns.begin()
        turns.bytes_this_turn = turns.bytes_per_turn + 1
        connection.protocol.data_received(USUAL)
        with monkeypatch.context() as patch:
            patch.setattr(turns, "flush", fail)
            turns._call_soon(lambda: None)
            while not met:
                await asyncio.sleep(0)
        while turns.bytes_this_turn:
            await asyncio.sleep(0)
        await connection.rest()
        assert ok(connection) == 2

    asyncio.run(run())


@pytest.mark.parametrize("fast", [True, False])
def test_the_sweep_goes_on(
    inference: Inference,
    fast: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def run() -> None:
        connections = together(inference, fast, 3)
        shared = connections[0].shared
        monkeypatch.setattr(connections[1].protocol, "check_time", fail)
        loop = asyncio.get_running_loop()
        scheduled: list[Any] = []
        monkeypatch.setattr(loop, "call_later", lambda *arguments: scheduled.append(arguments))
        for one in connections:
            one.protocol._times.idle = 1000
        shared.connections.sweep(loop)
        assert [one.transport.aborted for one in connections] == [False, True, False]
        assert all(one.transport.closed for one in connections)  # past their time limits
        assert len(scheduled) == 1
        monkeypatch.setattr(shared.connections, "_flush", fail)
        with pytest.raises(RuntimeError):
            shared.connections.sweep(loop)
        assert len(scheduled) == 2

    asyncio.run(run())
    assert len(caplog.records) == 1


def test_errors_are_logged_once_in_a_while(
    inference: Inference, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr("cartpole.logs.monotonic", lambda: now[0])

    async def run() -> None:
        (connection,) = together(inference, False, 1)
        failures = Failures()
        for _ in range(3 * QUIET_SECONDS):
            now[0] += 1
            for _ in range(100):
                try:
                    fail()
                except RuntimeError:
                    failures.abort(connection.protocol)

    asyncio.run(run())
    assert len(caplog.records) == 3
    assert [record.getMessage().split()[0] for record in caplog.records] == ["1", "1000", "1000"]
