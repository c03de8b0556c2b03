"""Tests of cartpole/policy/loading.py and cartpole/policy/perceptron.py."""

import json
import os
import re
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cartpole.policy.loading import BadPolicy, Policy, load, read_file
from cartpole.policy.perceptron import NotPerceptron, read_perceptron
from cartpole.policy.tolerance import logits_close
from cartpole.policy.torchscript import trace_step
from cartpole.settings import BUNDLED_MODEL
from tests.support.models import Heads, mlp, save


def test_the_shipped_model(policy: Policy) -> None:
    assert policy.algorithm == "PPO"
    assert policy.metadata["inputs"] == {
        "observation": ["position", "velocity", "angle", "angular_velocity"]
    }
    golden = policy.metadata["golden"]
    found = policy.forward(torch.tensor([golden["observation"]]))
    assert logits_close(found, torch.tensor([golden["logits"]]))
    assert policy.path == BUNDLED_MODEL


def test_a_file_as_cart_pole_rs_own(frozen_model: tuple[Path, tuple[float, float]]) -> None:
    path, logits = frozen_model
    policy = load(path)
    assert policy.algorithm == "unknown"
    found = policy.forward(torch.tensor([[0.0, 0.0, -1.0, 0.0]]))
    assert logits_close(found, torch.tensor([logits]))
    assert [tuple(weight.shape) for weight in read_perceptron(policy).weights] == [
        (4, 64),
        (64, 64),
        (64, 2),
    ]


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(BadPolicy, match=r"none\.pt: No such file"):
        load(tmp_path / "none.pt")
    with pytest.raises(BadPolicy, match="Is a directory"):
        load(tmp_path)


def test_a_file_is_read_in_parts(tmp_path: Path) -> None:
    """A load from a slow disk shows by them that it makes progress."""
    path = tmp_path / "file"
    path.write_bytes(os.urandom(2**23))
    before = system_calls_to_read()
    assert read_file(path) == path.read_bytes()
    assert system_calls_to_read() - before >= 8


def system_calls_to_read() -> int:
    (found,) = re.findall(r"syscr: (\d+)", Path("/proc/self/io").read_text())
    return int(found)


def test_what_is_no_regular_file(tmp_path: Path) -> None:
    """It is refused at once, where a read might never end."""
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(BadPolicy, match=f"^model {path}: not a regular file$"):
            load(path)


def test_content_that_was_read_already(tmp_path: Path) -> None:
    policy = load(tmp_path / "none.pt", read_file(BUNDLED_MODEL))
    assert policy.sha256 == load(BUNDLED_MODEL).sha256
    assert policy.path == tmp_path / "none.pt"


@pytest.mark.parametrize("kept", [0, 1, 100, 5_000, 20_000, -1_000, -1])
def test_truncated(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "cut.pt"
    path.write_bytes(BUNDLED_MODEL.read_bytes()[:kept])
    with pytest.raises(BadPolicy, match="not a TorchScript file") as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_no_torchscript(tmp_path: Path) -> None:
    path = tmp_path / "other.pt"
    path.write_text("hello")
    with pytest.raises(BadPolicy, match="not a TorchScript file"):
        load(path)
    torch.save({"weight": torch.zeros(4, 2)}, path)
    with pytest.raises(BadPolicy, match="not a TorchScript file"):
        load(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"")
    with pytest.raises(BadPolicy, match="not a TorchScript file"):
        load(path)


class Bare(nn.Module):
    def forward(self, observation: Tensor) -> Tensor:
        return observation[:, :2]


class OneRow(nn.Module):
    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return observation[:1, :2], observation[:1, :1]


class Names(nn.Module):
    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        return {"logits": observation[:, :2]}


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Heads(nn.Linear(5, 2), nn.Linear(5, 1)), r"forward fails \(.*shapes"),
        (Heads(nn.Linear(4, 3), nn.Linear(4, 1)), r"found float32\[1, 3\], float32\[1, 1\]"),
        (Heads(nn.Linear(4, 2), nn.Linear(4, 2)), r"found float32\[1, 2\], float32\[1, 2\]"),
        (Bare(), r"found float32\[1, 2\] for n=1"),
        (OneRow(), r"found float32\[1, 2\], float32\[1, 1\] for n=3"),
        (Names(), r"found dict for n=1"),
    ],
)
def test_wrong_shape(tmp_path: Path, module: nn.Module, found: str) -> None:
    path = tmp_path / "wrong.pt"
    torch.jit.save(torch.jit.script(module), path)
    with pytest.raises(BadPolicy, match=found + r".*expected forward\(float32\[n, 4\]\)") as raised:
        load(path)
    assert "\n" not in str(raised.value)


def test_golden_answer_is_checked(tmp_path: Path) -> None:
    linear = nn.Linear(4, 2)
    answer = linear(torch.ones(4)).tolist()
    golden = {"observation": [1.0, 1.0, 1.0, 1.0], "logits": answer}
    assert load(save(tmp_path / "m.pt", linear, metadata_json=json.dumps({"golden": golden})))
    golden["logits"] = [answer[0] * 1.001, answer[1]]
    with pytest.raises(BadPolicy, match="golden observation"):
        load(save(tmp_path / "m.pt", linear, metadata_json=json.dumps({"golden": golden})))


@pytest.mark.parametrize("metadata", ["{", "[]", '{"golden": 1}', '{"golden": {}}', '"x"'])
def test_bad_metadata(tmp_path: Path, metadata: str) -> None:
    with pytest.raises(BadPolicy, match="bad metadata"):
        load(save(tmp_path / "m.pt", nn.Linear(4, 2), metadata_json=metadata))


def test_the_value_head_is_not_computed(tmp_path: Path) -> None:
    policy = load(save(tmp_path / "m.pt", mlp(4, 8, 2), mlp(4, 33, 1)))
    step: Any = trace_step(read_perceptron(policy))[0]
    graph = str(step.graph)
    assert graph.count("aten::addmm") == 2
    assert "33" not in graph


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("widths", [(4, 2), (4, 7, 2), (4, 64, 64, 2), (4, 1, 300, 5, 2)])
def test_weights_are_read_out(tmp_path: Path, widths: tuple[int, ...], activation: Any) -> None:
    policy = load(save(tmp_path / "m.pt", mlp(*widths, activation=activation)))
    network = read_perceptron(policy)
    observations = torch.randn(20, 4)
    values = observations
    for number, (weight, bias) in enumerate(zip(network.weights, network.biases, strict=True), 1):
        values = values @ weight + bias
        if number < len(network.weights):
            values = getattr(torch, network.activation)(values)
    assert logits_close(values, policy.forward(observations))
    if len(widths) > 2:
        assert network.activation == activation.__name__.lower()


class Shared(nn.Module):
    """Both heads read the same hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.policy, self.value = mlp(4, 8, 8), nn.Linear(8, 2), nn.Linear(8, 1)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(observation).tanh()
        return self.policy(hidden), self.value(hidden)


def test_heads_on_one_trunk(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Shared().eval(), torch.zeros(1, 4)), tmp_path / "m.pt")
    shapes = [tuple(weight.shape) for weight in read_perceptron(load(tmp_path / "m.pt")).weights]
    assert shapes == [(4, 8), (8, 8), (8, 2)]


class Operators(nn.Module):
    """Linear layers written in other ways."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.randn(3, 2))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, observation: Tensor) -> Tensor:
        hidden = torch.relu_(torch.addmm(self.bias, observation, self.first))
        return torch.mm(hidden, self.second) + torch.ones(2)


def test_weights_in_other_operators(tmp_path: Path) -> None:
    network = read_perceptron(load(save(tmp_path / "m.pt", Operators())))
    assert [tuple(weight.shape) for weight in network.weights] == [(4, 3), (3, 2)]
    assert network.biases[1].tolist() == [1.0, 1.0]
    assert network.activation == "relu"


class Scaled(nn.Module):
    def forward(self, observation: Tensor) -> Tensor:
        return observation[:, :2] * 2


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, observation: Tensor) -> Tensor:
        doubled: Tensor = self.linear(observation) + self.linear(observation * 2)
        return doubled


@pytest.mark.parametrize(
    ("module", "operator"),
    [
        (mlp(4, 8, 2, activation=nn.ELU), "aten::elu"),
        (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), "aten::tanh"),
        (nn.Sequential(mlp(4, 8, 8), nn.Tanh(), nn.ReLU(), nn.Linear(8, 2)), "aten::tanh"),
        (nn.Sequential(mlp(4, 8, 8), nn.ReLU(), nn.Linear(8, 2)), "aten::relu and aten::tanh"),
        (Scaled(), "aten::mul"),
        (Doubled(), "aten::add"),
        (nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 2)), "aten::layer_norm"),
    ],
)
def test_other_networks_are_named(tmp_path: Path, module: nn.Module, operator: str) -> None:
    policy = load(save(tmp_path / "m.pt", module))
    with pytest.raises(NotPerceptron, match=operator):
        read_perceptron(policy)
