"""Every engine agrees with the module's own forward, for single observations and in batches."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from cartpole.api.inference import Inference
from cartpole.policy.contract import MAX_ROWS, Observation
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.policy.perceptron import NotPerceptron, read_perceptron
from cartpole.policy.tolerance import rows_agree
from cartpole.policy.verify import sample_observations
from cartpole.predictor import Predictor
from tests.support.models import Base, Outputs, Raises, scripted

Forward = Callable[["Base", Tensor], Outputs]


def halve_logits(self: Base, x: Tensor) -> Outputs:
    logits = self.net(x)
    logits.mul_(0.5)
    return logits, self.value(x)


def clamp_a_column(self: Base, x: Tensor) -> Outputs:
    logits = self.net(x)
    logits[:, 0].clamp_(-0.1, 0.1)
    return logits, self.value(x)


def halve_hidden(self: Base, x: Tensor) -> Outputs:
    hidden = self.first(x)
    activated = torch.tanh(hidden)
    activated.mul_(0.5)
    return self.last(activated), self.value(x)


def scale_observation(self: Base, x: Tensor) -> Outputs:
    x.mul_(0.5)
    return self.net(x), self.value(x)


def value_spoils_logits(self: Base, x: Tensor) -> Outputs:
    logits = self.net(x)
    return logits, logits.mul_(0.5).sum(1, keepdim=True)


def value_spoils_hidden(self: Base, x: Tensor) -> Outputs:
    hidden = self.first(x)
    value = hidden.abs_().sum(1, keepdim=True)
    return self.last(torch.tanh(hidden)), value


def add_a_scalar(self: Base, x: Tensor) -> Outputs:
    return torch.matmul(x, self.last.weight[:, :4].t()) + 0.5, self.value(x)


def add_a_tensor_without_dimensions(self: Base, x: Tensor) -> Outputs:
    return torch.matmul(x, self.last.weight[:, :4].t()) + self.offset, self.value(x)


def cube(self: Base, x: Tensor) -> Outputs:
    return self.net(x) ** 3, self.value(x)


def batch_statistics(self: Base, x: Tensor) -> Outputs:
    return self.net(x - x.mean(0)), self.value(x)


def look_at_the_largest(self: Base, x: Tensor) -> Outputs:
    return self.net(x) * (x.max() < 4.5), self.value(x)


TRACED: list[Forward] = [
    halve_logits,
    clamp_a_column,
    halve_hidden,
    scale_observation,
    value_spoils_logits,
    value_spoils_hidden,
    add_a_scalar,
    add_a_tensor_without_dimensions,
    cube,
    batch_statistics,
    look_at_the_largest,
]


class InPlace(Base):
    """Scripted: the tensor changed in place is read through its old name."""

    def forward(self, x: Tensor) -> Outputs:
        logits = self.net(x)
        torch.relu_(logits)
        return logits, self.value(x)


class RaisesAtRest(Base):
    def forward(self, x: Tensor) -> Outputs:
        if bool((x == 0).all()):
            raise ValueError("at rest")
        return self.net(x), self.value(x)


class ValueRaises(Base):
    """The value head alone fails for these observations; the graph has no node that says so."""

    def forward(self, x: Tensor) -> Outputs:
        index = (x[:, 0] > 4).long() * 9
        return self.net(x), torch.index_select(torch.ones(2, 1), 0, index)


class Branches(Base):
    """Branches on one value in a thousand, which no sample has."""

    def forward(self, x: Tensor) -> Outputs:
        logits = self.net(x)
        if bool((x[:, 0] == 1.25).any()):
            logits = logits * 2
        return logits, self.value(x)


class Narrow(Base):
    """One logit for some observations: it must not be copied into both places."""

    def forward(self, x: Tensor) -> Outputs:
        logits = self.net(x)
        if bool((x[:, 0] > 4).any()):
            logits = logits[:, :1]
        return logits, self.value(x)


SCRIPTED = [InPlace, Raises, RaisesAtRest, ValueRaises, Branches, Narrow]


def traced(path: Path, forward: Forward) -> Path:
    module = type("Traced", (Base,), {"forward": forward})().eval()
    torch.jit.save(torch.jit.trace(module, torch.zeros(3, 4), check_trace=False), path)
    return path


def observations() -> list[Observation]:
    chosen = sample_observations()[[*range(200), *range(4000, 4200)]]
    chosen[8] = 0
    chosen[7, 0] = chosen[300, 0] = 1.25
    return [(a, b, c, d) for a, b, c, d in chosen.tolist()]


def ask(run: Callable[[], list[float]]) -> list[float] | None:
    """Two logits, or None if the call raises or returns another number of them."""
    try:
        logits = run()
    except Exception:
        return None
    return logits if len(logits) == 2 else None


def check(path: Path, name: str) -> None:
    """Each answer agrees with the module's own, and is the same to the byte in a batch."""
    module = torch.jit.load(path)
    engine = make_engine(load(path), name)
    asked = observations()
    for one in asked:
        found = ask(lambda: list(engine.one(*one)))  # noqa: B023
        expected = ask(lambda: module(torch.tensor([one]))[0].tolist()[0])  # noqa: B023
        assert (found is None) == (expected is None), one
        if found and expected:
            pair = torch.tensor([found]), torch.tensor([expected])
            assert rows_agree(*pair).all() or "nan" in repr(found) == repr(expected), one
    inference = Inference(Predictor(engine))
    together = inference.answer_all([*asked[:MAX_ROWS]]) + inference.answer_all([*asked[MAX_ROWS:]])
    assert together == [inference.answer_all([one])[0] for one in asked]


@pytest.mark.parametrize("engine", ["torchscript", "auto"])
@pytest.mark.parametrize("forward", TRACED)
def test_traced(tmp_path: Path, forward: Forward, engine: str) -> None:
    check(traced(tmp_path / "m.pt", forward), engine)


@pytest.mark.parametrize("engine", ["torchscript", "auto"])
@pytest.mark.parametrize("module", SCRIPTED)
def test_scripted(tmp_path: Path, module: type[Base], engine: str) -> None:
    check(scripted(tmp_path / "m.pt", module()), engine)


@pytest.mark.parametrize("forward", TRACED)
def test_none_of_them_is_a_perceptron(tmp_path: Path, forward: Forward) -> None:
    with pytest.raises(NotPerceptron):
        read_perceptron(load(traced(tmp_path / "m.pt", forward)))
