"""Perceptrons with normalised observations, and linear ones without bias, on every engine."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.policy.native import NativeEngine
from cartpole.policy.perceptron import NotPerceptron, read_perceptron
from cartpole.policy.torchscript import ModuleEngine, TorchScriptEngine
from cartpole.policy.verify import sample_observations
from tests.support.engines import check
from tests.support.models import mlp, rejection, save

MEAN = torch.tensor([0.1, -30.0, 0.002, 1e-3], dtype=torch.float64)
DEVIATION = torch.tensor([0.3, 0.5, 0.01, 7.0], dtype=torch.float64)

Normalize = Callable[[Tensor], Tensor]


def as_vecnormalize(x: Tensor) -> Tensor:
    return ((x - MEAN) / DEVIATION).clamp(-10.0, 10.0).float()


class Normalized(nn.Module):
    """A network behind a normalisation."""

    def __init__(self, network: nn.Module, normalize: Normalize = as_vecnormalize) -> None:
        super().__init__()
        self.network, self.normalize = network, normalize

    def forward(self, x: Tensor) -> Tensor:
        network: Tensor = self.network(self.normalize(x))
        return network


NETWORKS = {
    "tanh": mlp(4, 20, 8, 2),
    "relu": mlp(4, 64, 64, 2, activation=nn.ReLU),
    "linear": nn.Linear(4, 2),
    "no bias": nn.Linear(4, 2, bias=False),
}


@pytest.mark.parametrize("name", ["torchscript", "native"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("normalized", [True, False])
def test_engines(tmp_path: Path, network: nn.Module, name: str, normalized: bool) -> None:
    policy = load(save(tmp_path / "m.pt", Normalized(network) if normalized else network))
    engine = make_engine(policy, name)
    assert type(engine) is {"torchscript": TorchScriptEngine, "native": NativeEngine}[name]
    check(policy, engine)


def test_normalises_as_vecnormalize_to_the_bit(tmp_path: Path) -> None:
    normalization = read_perceptron(
        load(save(tmp_path / "m.pt", Normalized(mlp(4, 8, 2))))
    ).normalization
    assert normalization is not None
    observations = sample_observations()
    mean, deviation = MEAN.numpy(), DEVIATION.numpy()
    expected = np.clip((observations.numpy() - mean) / deviation, -10, 10).astype(np.float32)
    assert np.array_equal(normalization(observations).numpy(), expected)


def test_two_normalisations_share_the_code_but_not_the_numbers(tmp_path: Path) -> None:
    network, other = mlp(4, 8, 2), lambda x: ((x - DEVIATION) / MEAN).clamp(-1.0, 1.0).float()
    first = make_engine(load(save(tmp_path / "a.pt", Normalized(network))), "native")
    second = load(save(tmp_path / "b.pt", Normalized(network, other)))
    check(second, make_engine(second, "native"))
    check(first.policy, first)


@pytest.mark.parametrize("linear", [nn.Linear(4, 2), nn.Linear(4, 2, bias=False)])
def test_optimized_for_inference(tmp_path: Path, linear: nn.Module) -> None:
    for network in (linear, Normalized(linear)):
        path = save(tmp_path / "m.pt", network)
        module = torch.jit.optimize_for_inference(torch.jit.freeze(torch.jit.load(path).eval()))
        torch.jit.save(module, path)
        policy = load(path)
        check(policy, make_engine(policy, "native"))


OTHERS: dict[str, Normalize] = {
    "unequal limits": lambda x: ((x - MEAN) / DEVIATION).clamp(-10.0, 9.0).float(),
    "one limit": lambda x: ((x - MEAN) / DEVIATION).clamp(max=9.0).float(),
    "rounded": lambda x: (
        torch.div(x - MEAN, DEVIATION, rounding_mode="floor").clamp(-9.0, 9.0).float()
    ),
    "half the mean": lambda x: (torch.sub(x, MEAN, alpha=0.5) / DEVIATION).clamp(-9.0, 9.0).float(),
    "one mean": lambda x: ((x - MEAN[:1]) / DEVIATION).clamp(-9.0, 9.0).float(),
    "float32": lambda x: ((x - MEAN.float()) / DEVIATION.float()).clamp(-9.0, 9.0),
    "by zero": lambda x: ((x - MEAN) / (DEVIATION * 0)).clamp(-9.0, 9.0).float(),
    "through half": lambda x: ((x - MEAN) / DEVIATION).clamp(-9.0, 9.0).half().float(),
    "twice": lambda x: as_vecnormalize(as_vecnormalize(x)),
}


@pytest.mark.parametrize("normalize", OTHERS.values(), ids=OTHERS)
def test_other_computations_run_as_the_module(tmp_path: Path, normalize: Normalize) -> None:
    path = save(tmp_path / "m.pt", Normalized(mlp(4, 8, 2), normalize))
    policy = load(path)
    with pytest.raises(NotPerceptron):
        read_perceptron(policy)
    assert type(make_engine(policy)) is ModuleEngine
    assert "--engine native can't compile it" in rejection(path, "native")
