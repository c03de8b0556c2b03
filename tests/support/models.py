"""Small models, traced or scripted, and saved as the service reads them."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cartpole.policy.engine import make_engine
from cartpole.policy.loading import BadPolicy, load


class Heads(nn.Module):
    """A policy and a value head of any kind."""

    def __init__(self, policy: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(observation), self.value(observation)


def mlp(*widths: int, activation: Callable[[], nn.Module] = nn.Tanh) -> nn.Sequential:
    torch.manual_seed(sum(widths))
    modules: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        modules += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*modules[:-1])


def save(path: Path, policy: nn.Module, value: nn.Module | None = None, **extra: str) -> Path:
    torch.manual_seed(0)
    module = Heads(policy, value or nn.Linear(4, 1)).eval()
    files = {name.replace("_json", ".json"): text for name, text in extra.items()}
    torch.jit.save(torch.jit.trace(module, torch.zeros(1, 4)), path, _extra_files=files)
    return path


Outputs = tuple[Tensor, Tensor]


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2))
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)
        self.value = nn.Linear(4, 1)
        self.offset: Tensor
        self.register_buffer("offset", torch.tensor(0.5))


class Raises(Base):
    def forward(self, x: Tensor) -> Outputs:
        if bool((x[:, 0] > 4).any()):
            raise ValueError("too far")
        return self.net(x), self.value(x)


def scripted(path: Path, module: nn.Module) -> Path:
    torch.jit.save(torch.jit.script(module.eval()), path)
    return path


def rejection(path: Path, engine: str = "torchscript") -> str:
    with pytest.raises(BadPolicy) as raised:
        make_engine(load(path), engine)
    text = str(raised.value)
    assert "\n" not in text
    assert len(text) < 500 + len(str(path))
    return text


HANGING = 12345.0  # a position that no verification tries


class Hangs(Base):
    """Its forward never ends for one position. The sum keeps TorchScript from dropping the loop."""

    def forward(self, x: Tensor) -> Outputs:
        turns = 0
        while bool((x[:, 0] == 12345.0).any()):
            turns += 1
        return self.net(x) + turns, self.value(x)


class Tiring(Base):
    """Its forward never ends once it has been called so often."""

    count: Tensor

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Outputs:
        self.count += 1
        turns = 0
        while int(self.count) > self.calls:
            turns += 1
        return self.net(x) + turns, self.value(x)


class Endless(Base):
    """Its forward never ends."""

    def forward(self, x: Tensor) -> Outputs:
        turns = 0
        while bool((x == x).any()):
            turns += 1
        return self.net(x) + turns, self.value(x)


_widths = itertools.count(8)


def new_policy(folder: Path) -> bytes:
    """A model file whose answers are no other policy's."""
    return save(folder / "policy.pt", mlp(4, next(_widths), 2)).read_bytes()
