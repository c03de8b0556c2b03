"""Rehearsal runs the real path, is counted nowhere, changes nothing and knows when to rest."""

import asyncio
from time import perf_counter_ns, thread_time
from typing import Any, cast

import pytest

from cartpole.api.inference import Inference
from cartpole.http import rehearsal as module
from cartpole.http.rehearsal import PERIOD_SECONDS, Rehearsal
from cartpole.metrics.counters import WorkerCounters
from cartpole.policy.contract import Engine
from cartpole.predictor import Predictor
from tests.support.corpus import USUAL
from tests.support.memory import Connection
from tests.support.wrapped_engine import WrappedEngine


class Counted(WrappedEngine):
    """Counts single forwards too."""

    singles = 0

    def one(self, *observation: float) -> Any:
        self.singles += 1
        return super().one(*observation)


def rehearse(connection: Connection) -> Rehearsal:
    """The rehearsal of the process that serves this connection, started."""
    made = Rehearsal(connection.shared, connection.inference.predictor)
    made.start(asyncio.get_running_loop())
    return made


async def seconds(number: float) -> None:
    await asyncio.sleep(number)


def test_it_runs_while_requests_are_rare_and_is_counted_nowhere(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.01)
    counted, counters = Counted(engine), WorkerCounters()

    async def run() -> None:
        connection = Connection(Inference(Predictor(counted, counters)), True)
        rehearse(connection)
        written = await connection.send(USUAL)
        before, cells = counted.singles, bytes(counters.cells)
        await seconds(0.2)
        assert counted.singles - before > 5
        assert bytes(counters.cells) == cells
        assert connection.state.total_requests == 1
        assert bytes(connection.transport.written) == written
        assert await connection.send(USUAL) == written * 2

    asyncio.run(run())


def test_it_rests_without_connections_and_before_the_first_request(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.01)
    monkeypatch.setattr(module, "ACTIVE_SECONDS", 0.1)
    counted = Counted(engine)

    async def run() -> None:
        connection = Connection(Inference(Predictor(counted)), True)
        rehearse(connection)
        await seconds(0.05)
        assert counted.singles == 0  # no request yet
        await connection.send(USUAL)
        await seconds(0.05)
        assert counted.singles > 1
        await seconds(0.15)
        rested = counted.singles  # the last request is too long ago
        await seconds(0.05)
        assert counted.singles == rested
        await connection.send(USUAL)
        connection.protocol.connection_lost(None)
        rested = counted.singles  # no connection is open
        await seconds(0.05)
        assert counted.singles == rested

    asyncio.run(run())


def test_a_request_that_is_there_goes_first(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        counted = Counted(engine)
        connection = Connection(Inference(Predictor(counted)), True)
        made = rehearse(connection)
        await connection.send(USUAL)
        counted.singles = 0
        await seconds(2 * PERIOD_SECONDS)
        connection.protocol.data_received(USUAL)
        connection.shared.turns.end()
        made._rehearse()
        assert counted.singles == 1  # the request's own

    asyncio.run(run())


def test_the_policy_that_serves_now_is_rehearsed(engine: Engine) -> None:
    async def run() -> None:
        connection = Connection(Inference(Predictor(engine)), True)
        made = rehearse(connection)
        new = Counted(engine)
        connection.inference.predictor.use(new)
        await connection.send(USUAL)
        await seconds(2 * PERIOD_SECONDS)
        before = new.singles
        made._rehearse()
        assert new.singles > before

    asyncio.run(run())


def test_a_policy_that_fails_is_not_rehearsed(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        failing = WrappedEngine(engine)
        failing.error = RuntimeError("no forward today")
        connection = Connection(Inference(Predictor(failing)), True)
        made = rehearse(connection)
        await seconds(2 * PERIOD_SECONDS)
        for _ in range(5):
            made._rehearse()

    asyncio.run(run())
    assert caplog.records == []


def test_a_policy_that_fails_later_is_rehearsed_no_more(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        failing = Counted(engine)
        connection = Connection(Inference(Predictor(failing)), True)
        made = rehearse(connection)

        async def rehearse_once() -> int:
            before = failing.singles
            await seconds(2 * PERIOD_SECONDS)
            made._rehearse()
            await seconds(0.001)  # of the application
            return failing.singles - before

        assert await rehearse_once() == 1
        failing.error = RuntimeError("no forward any more")
        assert await rehearse_once() == 1
        assert await rehearse_once() == 0
        connection.inference.predictor.use(Counted(engine))
        failing = cast(Counted, connection.inference.predictor.engine)
        assert await rehearse_once() == 1

    asyncio.run(run())
    assert caplog.records == []


def test_the_cost_is_all_that_a_rehearsal_takes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REST_SECONDS", 0.01)

    class Slow(WrappedEngine):
        def one(self, *observation: float) -> Any:
            until = thread_time() + 0.002
            while thread_time() < until:
                pass
            return super().one(*observation)

    async def run() -> None:
        connection = Connection(Inference(Predictor(Slow(engine))), True)
        made = rehearse(connection)
        await connection.send(USUAL)
        for _ in range(100):
            await seconds(0.05)
            if made._seconds > 0.001:
                break
        assert made._seconds > 0.001

    asyncio.run(run())


def test_a_slow_rehearsal_is_rare(engine: Engine) -> None:
    """It takes at most a twentieth of a core, whatever a forward takes."""

    async def run() -> None:
        connection = Connection(Inference(Predictor(engine)), True)
        made = rehearse(connection)
        due: list[float] = []
        made._loop = type("Loop", (), {"call_later": lambda _, s, __: due.append(s)})()
        connection.shared.turns.answered_at = perf_counter_ns()
        made._seconds = 0.001
        made._look()
        assert due == [0.001 / module.MOST_SHARE]

    asyncio.run(run())
