"""Tests of cartpole/runner.py."""

from pathlib import Path

import pytest
import torch
from torch import nn

from cartpole.policy.loading import Policy, close, load
from cartpole.policy.torchscript import MAX_BATCH, Runner
from tests.support.engines import check, expected, observations
from tests.support.models import mlp, save

LARGEST = torch.finfo(torch.float32).max


def test_agrees_with_the_modules_forward(policy: Policy, runner: Runner) -> None:
    check(policy, runner)
    assert runner.engine == "torchscript"


def test_a_file_as_cart_pole_rs_own(frozen_model: tuple[Path, tuple[float, float]]) -> None:
    policy = load(frozen_model[0])
    runner = Runner(policy)
    check(policy, runner)
    assert runner.one(0, 0, -1, 0) == pytest.approx(frozen_model[1], rel=1e-6)


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
    check(policy, Runner(policy))


def test_every_batch_size_gives_the_bits_of_single_calls(runner: Runner) -> None:
    batch = observations(MAX_BATCH)
    alone = [runner.one(*observation) for observation in batch]
    for rows in [*range(1, 258), 511, 512, 513, 1000, MAX_BATCH]:
        assert runner.batch(batch[-rows:]) == alone[-rows:]


def test_batch_bounds(runner: Runner) -> None:
    assert runner.batch([]) == []
    with pytest.raises(ValueError, match="1025 observations, at most 1024"):
        runner.batch([(0, 0, 0, 0)] * (MAX_BATCH + 1))


def test_every_float32_is_taken(policy: Policy, runner: Runner) -> None:
    for value in (LARGEST, -LARGEST, 3.4028235677973362e38, 1e-45, -0.0):
        for place in range(4):
            one = [0.0] * 4
            one[place] = value
            found = torch.tensor([runner.one(*one)])
            assert close(found, policy.forward(torch.tensor([one]).clamp(-LARGEST, LARGEST)))


def test_where_blas_never_agrees_rows_run_alone(
    policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With no group size to try, every batch falls back to single calls."""
    monkeypatch.setattr("cartpole.policy.torchscript.ROW_GROUPS", (1,))
    runner = Runner(policy)
    batch = observations(20)
    assert runner.batch(batch) == [runner.one(*observation) for observation in batch]
    assert close(torch.tensor(runner.batch(batch)), expected(policy, batch))
