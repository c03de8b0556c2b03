"""Tests of cartpole/policy/native.py, and of verification by its example."""

import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit
from torch import nn

from bench.server import serving
from cartpole.policy import native
from cartpole.policy.contract import MAX_ROWS, Engine, Observation
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import BadPolicy, Policy, load
from cartpole.policy.perceptron import read_perceptron
from cartpole.policy.verify import sample_observations, verify
from tests.support.engines import check
from tests.support.models import mlp, save
from tests.support.paths import GOLDEN
from tools.fit_tanh import LARGEST, fit


@pytest.fixture(scope="module")
def compiled(policy: Policy) -> Engine:
    return make_engine(policy, "native")


def test_the_shipped_model(compiled: Engine, policy: Policy) -> None:
    assert compiled.name == "native"
    check(policy, compiled)


def test_a_file_as_cart_pole_rs_own(frozen_model: tuple[Path, tuple[float, float]]) -> None:
    policy = load(frozen_model[0])
    engine = make_engine(policy, "native")
    check(policy, engine)
    assert engine.one(0, 0, -1, 0) == pytest.approx(frozen_model[1], rel=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(4, 2),
        nn.Linear(4, 2, bias=False),
        mlp(4, 7, 2),
        mlp(4, 50, 33, 2),
        mlp(4, 1, 1, 1, 1, 2),
        mlp(4, 64, 64, 2, activation=nn.ReLU),
        mlp(4, 256, 256, 2),
    ],
    ids=["linear", "no-bias", "7", "50-33", "1-1-1-1", "relu", "256"],
)
def test_other_networks(tmp_path: Path, network: nn.Module) -> None:
    policy = load(save(tmp_path / "m.pt", network))
    engine = make_engine(policy, "auto")
    assert engine.name == "native"
    batch: list[Observation] = [
        (a, b, c, d) for a, b, c, d in sample_observations()[:4300].tolist()
    ]
    found = torch.tensor([engine.one(*observation) for observation in batch])
    expected = policy.forward(torch.tensor(batch))
    usual = torch.arange(len(batch)) < 4000
    torch.testing.assert_close(found[usual], expected[usual], rtol=1e-5, atol=1e-5)
    for start in range(0, len(batch), MAX_ROWS):
        rows = batch[start : start + MAX_ROWS]
        assert repr(engine.batch(rows)) == repr([engine.one(*row) for row in rows])


@pytest.mark.parametrize("rows", [0, MAX_ROWS + 1])
def test_the_size_of_a_batch_is_checked(compiled: Engine, rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} observations, expected 1 to 256"):
        compiled.batch([(0, 0, 0, 0)] * rows)


@pytest.mark.parametrize("engine", ["native", "auto"])
def test_a_policy_that_is_not_a_perceptron(
    tmp_path: Path, engine: str, caplog: pytest.LogCaptureFixture
) -> None:
    policy = load(save(tmp_path / "m.pt", mlp(4, 16, 2, activation=nn.Sigmoid)))
    reason = "m.pt: --engine native can't compile it: aten::sigmoid"
    if engine == "native":
        with pytest.raises(BadPolicy, match=reason):
            make_engine(policy, engine)
    else:
        with caplog.at_level(logging.INFO, "cartpole"):
            assert make_engine(policy, engine).name == "torchscript"
        assert reason in caplog.text


def test_without_numba(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "cartpole.policy.native")
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(BadPolicy, match=r"needs the extra cartpole\[native\]"):
        make_engine(policy, "native")
    assert make_engine(policy, "auto").name == "torchscript"


@pytest.mark.parametrize("error", [1.0001, -1.0, float("nan")])
def test_a_wrong_function_is_rejected(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    right, factor = native.tanh, np.float32(error)
    monkeypatch.setattr(native, "_compile", native._compile.__wrapped__)
    monkeypatch.setattr(native, "tanh", njit(lambda x: right(x) * factor))
    with pytest.raises(BadPolicy, match="native answers"):
        make_engine(policy, "native")


def test_a_function_that_differs_in_a_batch_is_rejected(
    compiled: Engine, policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = compiled.one
    monkeypatch.setattr(compiled, "one", lambda a, b, c, d: (one(a, b, c, d)[0] + 2e-6, 0.0))
    with pytest.raises(BadPolicy, match="in a batch"):
        verify(compiled, policy, read_perceptron(policy))


def test_sample_observations() -> None:
    drawn = sample_observations()
    assert drawn.shape == (10_000, 4)
    assert drawn.isfinite().all()
    assert drawn.abs().max() == torch.finfo(torch.float32).max
    assert ((drawn == 0) & drawn.signbit()).any()
    assert ((drawn != 0) & (drawn.abs() < torch.finfo(torch.float32).tiny)).any()
    assert (drawn.abs() == torch.tensor(4.8)).any()


@njit  # type: ignore[untyped-decorator]
def every_tanh(values: native.Array) -> native.Array:
    result = np.empty_like(values)
    for index in range(len(values)):
        result[index] = native.tanh(values[index])
    return result


def test_tanh_is_within_six_units_in_the_last_place() -> None:
    """Over every 97th float32 from 0 to 10, and their negatives."""
    bits = np.arange(0, np.float32(10).view(np.int32), 97, dtype=np.int32)
    for values in (bits.view(np.float32), -bits.view(np.float32)):
        found = every_tanh(values)
        exact = np.tanh(values.astype(np.float64))
        unit = np.spacing(np.abs(exact).astype(np.float32)).astype(np.float64)
        errors = np.abs(found - exact) / unit
        worst = errors.argmax()
        assert errors[worst] < 6, f"tanh({values[worst]!r}) is {errors[worst]:.1f} units off"


@pytest.mark.parametrize("value", [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-10, 1e-5])
def test_tanh_of_a_small_value_is_the_value(value: float) -> None:
    small = np.array([value], np.float32)
    assert every_tanh(small).tobytes() == small.tobytes()


@pytest.mark.parametrize("value", [9.03, 10, 1e10, 3.4028235e38, np.inf])
def test_tanh_of_a_large_value_is_one(value: float) -> None:
    assert every_tanh(np.array([value, -value], np.float32)).tolist() == [1, -1]


def test_tanh_is_one_from_where_float32_rounds_it_to_one() -> None:
    assert native._ONE_AT == LARGEST
    assert np.float32(np.tanh(native._ONE_AT)) == 1
    assert np.float32(np.tanh(native._ONE_AT - 0.02)) < 1


def test_tanh_of_nan_is_nan() -> None:
    assert np.isnan(every_tanh(np.array([np.nan], np.float32))).all()


def test_its_constants_are_those_of_the_fit() -> None:
    p, q, error = fit()
    np.testing.assert_allclose(native._P, p, rtol=1e-4)
    np.testing.assert_allclose(native._Q, q, rtol=1e-4)
    assert error < 2.3e-8


def test_served_with_either_http_the_bytes_are_the_same() -> None:
    answers = []
    for http in ("fast", "asgi"):
        with serving("--engine", "native", "--http", http) as server:
            assert server.get("/health/ready") == (
                200,
                b'{"status":"ready","engine":"native","outputs":"logits"}',
            )
            answers.append(server.get(f"/inference?{GOLDEN}"))
    assert answers[0] == answers[1]
    assert answers[0][0] == 200
