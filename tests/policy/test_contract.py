"""Every engine keeps the contract of Engine; mypy checks the types of this list."""

from pathlib import Path

import pytest
from torch import nn

from cartpole.policy.contract import Engine, Policy
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.policy.native import NativeEngine
from cartpole.policy.perceptron import read_perceptron
from cartpole.policy.torchscript import ModuleEngine, TorchScriptEngine
from tests.support.engines import check
from tests.support.models import mlp, save


def test_every_engine(policy: Policy) -> None:
    network = read_perceptron(policy)
    engines: list[Engine] = [
        TorchScriptEngine(policy, network),
        ModuleEngine(policy),
        ModuleEngine(policy, together=True),
        NativeEngine(policy, network),
    ]
    for engine in engines:
        assert engine.policy is policy
        check(policy, engine)
    assert [engine.name for engine in engines] == ["torchscript"] * 3 + ["native"]


@pytest.mark.parametrize(
    ("name", "activation", "expected"),
    [
        ("torchscript", nn.Tanh, TorchScriptEngine),
        ("torchscript", nn.Sigmoid, ModuleEngine),
        ("native", nn.Tanh, NativeEngine),
        ("auto", nn.Tanh, NativeEngine),
        ("auto", nn.Sigmoid, ModuleEngine),
    ],
)
def test_which_engine_is_made(
    tmp_path: Path, name: str, activation: type[nn.Module], expected: type
) -> None:
    policy = load(save(tmp_path / "m.pt", mlp(4, 8, 2, activation=activation)))
    assert type(make_engine(policy, name)) is expected
