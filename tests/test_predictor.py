"""The policy from Python: cartpole.load(), one observation, rows of them."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cartpole
from cartpole import predictor
from cartpole.predictor import MAX_ROWS, Predictor, load
from cartpole.settings import BUNDLED_MODEL
from tests.support.wrapped_engine import WrappedEngine

ROWS = [(0.0, 0.0, -1.0, 0.0), (0.1, -0.2, 0.03, 0.4), (2.4, 3.0, 0.2, -3.0)]


@pytest.fixture(scope="module")
def policy() -> Predictor:
    return cartpole.load(BUNDLED_MODEL)


def test_one_observation(policy: Predictor) -> None:
    left, right = policy(0, 0, -1, 0)
    assert (left, right) == pytest.approx((16.007732, -15.989036), rel=1e-5)
    assert policy(position=0, velocity=0, angle=-1, angular_velocity=0) == (left, right)


def test_the_module_is_the_oracle(policy: Predictor) -> None:
    expected = policy.policy.forward(torch.tensor(ROWS))
    assert torch.allclose(torch.tensor(policy.batch(ROWS)), expected, rtol=1e-5)


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        tuple(ROWS),
        [list(row) for row in ROWS],
        np.array(ROWS),
        np.array(ROWS, np.float32).astype(np.float64),
        torch.tensor(ROWS, dtype=torch.float64),
    ],
    ids=["tuples", "tuple", "lists", "float64", "from float32", "tensor"],
)
def test_rows_of_any_kind_get_the_answers_of_single_calls(policy: Predictor, rows: Any) -> None:
    expected = [policy(*row) for row in ROWS]
    found = policy.batch(rows)
    assert found == [pytest.approx(row, rel=1e-5) for row in expected]
    assert policy.batch(ROWS) == expected


@pytest.mark.parametrize("number", [0, 1, MAX_ROWS, MAX_ROWS + 1, 3 * MAX_ROWS + 7])
def test_any_number_of_rows(policy: Predictor, number: int) -> None:
    counted = WrappedEngine(policy.engine)
    rows = (ROWS * number)[:number]
    assert Predictor(counted).batch(rows) == [policy(*row) for row in rows]
    assert counted.sizes == [MAX_ROWS] * (number // MAX_ROWS) + [number % MAX_ROWS] * (
        number % MAX_ROWS > 0
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1e39, 1e300])
def test_values_that_are_not_finite_as_float32(policy: Predictor, value: float) -> None:
    with pytest.raises(ValueError, match=r"^expected values finite as float32, found"):
        policy(0, value, 0, 0)
    with pytest.raises(ValueError, match=r"^row 1: expected values finite as float32"):
        policy.batch([ROWS[0], (0, 0, value, 0)])


@pytest.mark.parametrize(
    "rows",
    [[(1, 2, 3)], [(1, 2, 3, 4, 5)], [1, 2, 3, 4], [("a", 1, 1, 1)], [None], np.zeros(4)],
    ids=str,
)
def test_rows_of_another_shape(policy: Predictor, rows: Any) -> None:
    with pytest.raises(ValueError, match=r"^row 0: expected 4 numbers, found"):
        policy.batch(rows)


def test_the_policy_can_be_replaced(policy: Predictor) -> None:
    predictor = Predictor(policy.engine)
    other = WrappedEngine(policy.engine)
    predictor.use(other)
    predictor.batch(ROWS)
    assert predictor.engine is other
    assert other.sizes == [3]


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(cartpole.BadPolicy, match=r"none\.pt: No such file"):
        load(str(tmp_path / "none.pt"))


@pytest.fixture
def threads() -> Iterator[int]:
    """A number of threads that is nobody's default."""
    before = torch.get_num_threads()
    torch.set_num_threads(7)
    yield 7
    torch.set_num_threads(before)


def test_loading_keeps_the_number_of_threads(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    real = predictor.load_engine

    def load_engine(path: Path, engine: str) -> predictor.Engine:
        found.append(torch.get_num_threads())
        return real(path, engine)

    monkeypatch.setattr(predictor, "load_engine", load_engine)
    load()
    assert torch.get_num_threads() == threads
    with pytest.raises(cartpole.BadPolicy):
        load(tmp_path)
    assert torch.get_num_threads() == threads
    assert found == [1, 1]


FORK = """
import os, signal, cartpole, torch
torch.set_num_threads(4)
policy = cartpole.load()
if child := os.fork():
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
else:
    signal.alarm(20)
    os._exit(policy.batch([(0, 0, -1, 0)] * 256) != [policy(0, 0, -1, 0)] * 256)
"""


def test_a_child_answers_after_a_fork() -> None:
    done = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("0\n", "")


def test_the_package_exports_what_it_documents() -> None:
    assert {name for name in cartpole.__all__ if not hasattr(cartpole, name)} == set()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = cartpole.nothing


def test_importing_the_package_is_cheap_and_using_it_quiet() -> None:
    """PyTorch is imported on first use, without its warning about NumPy."""
    program = (
        "import sys, cartpole; assert 'torch' not in sys.modules; "
        "sys.modules['numpy'] = None; print(len(cartpole.load()(0, 0, -1, 0)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("2\n", "")
