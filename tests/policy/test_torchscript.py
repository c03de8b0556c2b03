"""Tests of cartpole/policy/torchscript.py and the batches of its engines."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cartpole.policy.contract import MAX_ROWS, Engine
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import Policy, load
from cartpole.policy.tolerance import logits_close
from tests.support.engines import check, expected, observations
from tests.support.models import mlp, save

LARGEST = torch.finfo(torch.float32).max


def test_agrees_with_the_modules_forward(policy: Policy, engine: Engine) -> None:
    check(policy, engine)
    assert engine.name == "torchscript"


def test_a_file_as_cart_pole_rs_own(frozen_model: tuple[Path, tuple[float, float]]) -> None:
    policy = load(frozen_model[0])
    engine = make_engine(policy)
    check(policy, engine)
    assert engine.one(0, 0, -1, 0) == pytest.approx(frozen_model[1], rel=1e-6)


@pytest.mark.parametrize(
    "network",
    [
        nn.Linear(4, 2),
        nn.Linear(4, 2, bias=False),
        mlp(4, 7, 2),
        mlp(4, 50, 33, 2),
        mlp(4, 64, 64, 2, activation=nn.ReLU),
        mlp(4, 256, 256, 256, 2),
        mlp(4, 16, 2, activation=nn.ELU),
        nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)),
    ],
    ids=["linear", "no-bias", "7", "50-33", "relu", "256", "elu", "layer-norm"],
)
def test_other_networks(tmp_path: Path, network: nn.Module) -> None:
    policy = load(save(tmp_path / "m.pt", network))
    check(policy, make_engine(policy))


def test_every_batch_size_gives_the_bits_of_single_calls(engine: Engine) -> None:
    batch = observations(4 * MAX_ROWS)
    alone = [engine.one(*observation) for observation in batch]
    for rows in range(1, MAX_ROWS + 1):
        assert engine.batch(batch[-rows:]) == alone[-rows:]
    for start in range(0, len(batch), MAX_ROWS):
        part = slice(start, start + MAX_ROWS)
        assert engine.batch(batch[part]) == alone[part]


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid], ids=["perceptron", "module"])
@pytest.mark.parametrize("rows", [0, MAX_ROWS + 1])
def test_the_size_of_a_batch_is_checked(
    tmp_path: Path, activation: type[nn.Module], rows: int
) -> None:
    engine = make_engine(load(save(tmp_path / "m.pt", mlp(4, 8, 2, activation=activation))))
    with pytest.raises(ValueError, match=f"{rows} observations, expected 1 to 256"):
        engine.batch([(0, 0, 0, 0)] * rows)


def test_every_float32_is_taken(policy: Policy, engine: Engine) -> None:
    for value in (LARGEST, -LARGEST, 3.4028235677973362e38, 1e-45, -0.0):
        for place in range(4):
            one = [0.0] * 4
            one[place] = value
            found = torch.tensor([engine.one(*one)])
            assert logits_close(found, policy.forward(torch.tensor([one]).clamp(-LARGEST, LARGEST)))


def test_where_blas_never_agrees_rows_run_alone(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no group size to try, every batch falls back to single calls."""
    monkeypatch.setattr("cartpole.policy.torchscript.ROW_GROUPS", (1,))
    engine = make_engine(policy)
    batch = observations(20)
    assert engine.batch(batch) == [engine.one(*observation) for observation in batch]
    assert logits_close(torch.tensor(engine.batch(batch)), expected(policy, batch))
