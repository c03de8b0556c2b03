"""Unusual model files are rejected in one line or served, never a traceback."""

import hashlib
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cartpole.api.inference import Inference
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.policy.tolerance import logits_close
from cartpole.predictor import Predictor
from cartpole.settings import BUNDLED_MODEL
from tests.support.models import Base, mlp, rejection, save


def test_weights_and_digest_are_of_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file is replaced while it is loaded."""
    path = save(tmp_path / "m.pt", nn.Linear(4, 2))
    content, weight = path.read_bytes(), torch.jit.load(path).state_dict()["policy.weight"]
    read: Any = torch.jit.load

    def replace_then_read(*arguments: Any, **named: Any) -> Any:
        shutil.copy(BUNDLED_MODEL, path)
        return read(*arguments, **named)

    monkeypatch.setattr(torch.jit, "load", replace_then_read)
    policy = load(path)
    assert policy.sha256 == hashlib.sha256(content).hexdigest()
    found = policy.forward(torch.eye(4)) - policy.forward(torch.zeros(4, 4))
    assert logits_close(found, weight.t())


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("name", ["policy.0.weight", "policy.2.bias", "value.bias"])
def test_weights_that_are_not_finite(tmp_path: Path, value: float, frozen: bool, name: str) -> None:
    path = save(tmp_path / "m.pt", mlp(4, 8, 2))
    module: Any = torch.jit.load(path)
    module.state_dict()[name].view(-1)[0] = value
    torch.jit.save(torch.jit.freeze(module.eval()) if frozen else module, path)
    assert "found weights that are not finite" in rejection(path)


class NoNumber(Base):
    """Its NaN is neither a parameter nor a float32."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = torch.tensor(float("nan"), dtype=torch.float64)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x) + self.shift.float(), self.value(x)


def test_an_answer_that_is_no_number(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(NoNumber()), tmp_path / "m.pt")
    assert "found logits [nan, nan], expected numbers" in rejection(tmp_path / "m.pt")


class Noise(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x) + torch.rand(1), self.value(x)


class Dropout(Base):
    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(self.dropout(x)), self.value(x)


class Counts(Base):
    def __init__(self) -> None:
        super().__init__()
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls.add_(1)
        return self.net(x) + self.calls, self.value(x)


@pytest.mark.parametrize("engine", ["torchscript", "auto", "native"])
@pytest.mark.parametrize("module", [Noise, Dropout, Counts])
def test_answers_by_chance(tmp_path: Path, module: type[nn.Module], engine: str) -> None:
    torch.jit.save(torch.jit.script(module()), tmp_path / "m.pt")
    reason = rejection(tmp_path / "m.pt", engine)
    if engine != "native":
        assert "must not depend on chance" in reason


class Trains(Base):
    """Returns other logits in training mode."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.net(x)
        return (logits * 2 if self.training else logits), self.value(x)


@pytest.mark.parametrize("engine", ["torchscript", "auto"])
@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_that_of_the_file(tmp_path: Path, training: bool, engine: str) -> None:
    torch.jit.save(torch.jit.script(Trains().train(training)), tmp_path / "m.pt")
    expected = torch.jit.load(tmp_path / "m.pt")(torch.ones(1, 4))[0][0]
    found = make_engine(load(tmp_path / "m.pt"), engine).one(1, 1, 1, 1)
    assert logits_close(torch.tensor(found), expected)


class NeverAnswers(Base):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if x.numel() > 0:
            raise ValueError("no\nanswer")
        return self.net(x), self.value(x)


class TwoInputs(Base):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return self.net(x), self.value(y)


@pytest.mark.parametrize("module", [NeverAnswers, TwoInputs])
def test_no_answer_at_all(tmp_path: Path, module: type[nn.Module]) -> None:
    torch.jit.save(torch.jit.script(module()), tmp_path / "m.pt")
    assert "forward fails" in rejection(tmp_path / "m.pt")


def test_a_module_without_forward(tmp_path: Path) -> None:
    class Empty(nn.Module):
        pass

    torch.jit.save(torch.jit.script(Empty()), tmp_path / "m.pt")
    assert "forward" in rejection(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        (7, "--engine native fails: it was asked"),
        (8, "--engine native can't compile it: 9 layers, more than 8"),
        (40, "--engine native can't compile it: 41 layers, more than 8"),
    ],
)
def test_too_deep_to_compile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hidden: int, reason: str
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("it was asked")

    monkeypatch.setattr("cartpole.policy.native._compile", fail)
    assert reason in rejection(save(tmp_path / "m.pt", mlp(4, *[8] * hidden, 2)), "native")


@pytest.mark.parametrize("error", [OSError("no space"), RecursionError("deep"), MemoryError()])
def test_auto_falls_back_whatever_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any, error: Exception
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise error

    path = save(tmp_path / "m.pt", mlp(4, 8, 2))
    monkeypatch.setattr("cartpole.policy.native._compile", fail)
    reason = rejection(path, "native")
    with caplog.at_level(logging.INFO, "cartpole"):
        assert make_engine(load(path), "auto").name == "torchscript"
    assert reason in caplog.text


def test_a_wrong_step_gives_way_to_the_modules_own_forward(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The default engine is compared as well."""
    policy = load(save(tmp_path / "m.pt", mlp(4, 8, 2)))
    monkeypatch.setattr(Tensor, "tanh_", Tensor.relu_)
    with caplog.at_level(logging.INFO, "cartpole"):
        engine = make_engine(policy)
    found, expected = (
        torch.tensor(engine.one(1, 2, 3, 4)),
        policy.forward(torch.tensor([[1.0, 2, 3, 4]])),
    )
    assert logits_close(found, expected[0])
    assert "using the module's own forward: " in caplog.text
    assert Inference(Predictor(engine)).answer_all([(1, 2, 3, 4)] * 3)[0][0] == 200
