"""Failing forwards: the responses and the log."""

from pathlib import Path

import pytest

from cartpole.api.forward_failures import ForwardFailures
from cartpole.api.inference import Inference, Query
from cartpole.api.observation import BadObservation
from cartpole.logs import QUIET_SECONDS
from cartpole.policy.contract import Engine
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.predictor import Predictor
from tests.support.models import Raises, scripted
from tests.support.wrapped_engine import WrappedEngine

FAR, NEAR = (4.5, 0.0, 0.0, 0.0), (0.5, 0.0, 0.0, 0.0)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("cartpole.logs.monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def inference(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> Inference:
    """Of a module that raises where the position is over 4."""
    engine = make_engine(load(scripted(tmp_path / "m.pt", Raises())))
    caplog.clear()
    return Inference(Predictor(engine))


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, bool]]:
    """Level, message up to the error's own text, and whether there is a traceback."""
    taken = [(r.levelname, r.getMessage(), bool(r.exc_info)) for r in caplog.records]
    caplog.clear()
    return taken


def failed(text: str, count: int) -> tuple[str, str, bool]:
    return "ERROR", f"forward failed: {text} ({count} since the last line)", False


def recovered(count: int) -> tuple[str, str, bool]:
    return "WARNING", f"forward recovered ({count} failed since the last line)", False


def test_only_its_own_observations_fail(inference: Inference) -> None:
    bad = BadObservation("no")
    asked: list[Query] = [NEAR, FAR, bad, NEAR, FAR, FAR, NEAR, bad]
    answers = inference.answer_all(asked)
    assert [status for status, _ in answers] == [200, 500, 400, 200, 500, 500, 200, 400]
    assert len({body for status, body in answers if status == 200}) == 1
    assert inference.answer_all([NEAR]) == [answers[0]]
    assert inference.answer_all([FAR]) == [answers[1]]
    query = "position={}&velocity={}&angle={}&angular_velocity={}"
    assert inference.answer(query.format(*FAR).encode()) == answers[1]
    assert inference.answer(query.format(*NEAR).encode()) == answers[0]


def ask(inference: Inference, error: str = "") -> None:
    engine = inference.predictor.engine
    assert isinstance(engine, WrappedEngine)
    engine.error = RuntimeError(error) if error else None
    status = 500 if error else 200
    assert inference.answer_all([NEAR])[0][0] == status


@pytest.fixture
def toggled(engine: Engine) -> Inference:
    """Of an engine that fails when it is told to."""
    return Inference(Predictor(WrappedEngine(engine)))


def test_the_first_with_its_traceback_then_one_line_in_ten_seconds(
    toggled: Inference, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    ask(toggled, "a")
    assert lines(caplog) == [("ERROR", "forward failed: a", True)]
    for number in range(100):
        ask(toggled, f"text {number}")
    assert lines(caplog) == []
    clock.now += QUIET_SECONDS
    ask(toggled, "b")
    ask(toggled, "c")
    assert lines(caplog) == [failed("b", 101)]
    ask(toggled)
    ask(toggled)
    assert lines(caplog) == [recovered(1)]
    clock.now += QUIET_SECONDS
    ask(toggled, "a")
    assert lines(caplog) == [("ERROR", "forward failed: a", True)]


def test_failing_now_and_then_does_not_fill_the_log(
    toggled: Inference, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(1000):
        ask(toggled, "odd")
        ask(toggled)
    assert lines(caplog) == [("ERROR", "forward failed: odd", True), recovered(0)]
    clock.now += QUIET_SECONDS
    ask(toggled)
    assert lines(caplog) == [recovered(999)]
    clock.now += QUIET_SECONDS
    ask(toggled)
    assert lines(caplog) == []


def test_a_batch_counts_each_of_its_failures(
    inference: Inference, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    inference.answer_all([FAR, FAR, FAR])
    ((level, message, traceback),) = lines(caplog)
    assert (level, traceback) == ("ERROR", True)
    assert "too far" in message
    clock.now += QUIET_SECONDS
    inference.answer_all([FAR])
    ((level, message, traceback),) = lines(caplog)
    assert (level, traceback) == ("ERROR", False)
    assert message.endswith("(3 since the last line)")
    inference.answer_all([NEAR])
    assert lines(caplog) == [recovered(0)]


def test_where_all_is_well_the_log_is_not_asked(
    toggled: Inference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ForwardFailures, "recover", None)  # calling it would raise
    ask(toggled)
    assert [status for status, _ in toggled.answer_all([NEAR] * 3)] == [200] * 3
