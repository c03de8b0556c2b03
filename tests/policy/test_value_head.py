"""The value head: the module's values, with the same bits alone and in any batch."""

import struct
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from cartpole.policy.contract import MAX_ROWS, Packed, Policy
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.policy.value_head import make_value_head
from tests.support.engines import observations
from tests.support.models import Base, Outputs, mlp, save, scripted


class OddValue(Base):
    """Its value head is no perceptron, and raises for some observations."""

    def forward(self, x: Tensor) -> Outputs:
        if bool((x[:, 0] > 1e29).any()):
            raise ValueError("too far")
        return self.net(x), torch.sin(self.value(x)) + x.abs().sum(1, keepdim=True)


def values(head: Packed, rows: Sequence[tuple[float, ...]]) -> list[float]:
    raw = struct.pack(f"{4 * len(rows)}f", *[value for row in rows for value in row])
    return list(struct.unpack(f"{len(rows)}f", head(memoryview(raw))))


def check(policy: Policy) -> None:
    head = make_value_head(policy)
    rows = [row for row in observations(300) if max(map(abs, row)) < 1e7]
    alone = [values(head, [row])[0] for row in rows]
    expected = policy.module(torch.tensor(rows))[1].detach().flatten()
    assert torch.allclose(torch.tensor(alone), expected, rtol=1e-5, atol=1e-5)
    for count in (2, 3, 17, min(MAX_ROWS, len(rows))):
        assert values(head, rows[-count:]) == alone[-count:]


def test_of_the_shipped_policy(policy: Policy) -> None:
    check(policy)
    assert make_engine(policy).packed_values(memoryview(bytes(16)))


@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_of_perceptrons(tmp_path: Path, activation: type[nn.Module]) -> None:
    value = mlp(4, 33, 20, 1, activation=activation)
    check(load(save(tmp_path / "model.pt", mlp(4, 16, 2), value)))


def test_of_any_other_module(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "cartpole")
    policy = load(scripted(tmp_path / "odd.pt", OddValue()))
    check(policy)
    assert "values by its own forward" in caplog.text
    with pytest.raises(Exception, match="too far"):
        values(make_value_head(policy), [(1e30, 0.0, 0.0, 0.0)])


@pytest.mark.parametrize("size", [0, 15, 17, 16 * (MAX_ROWS + 1)])
def test_bytes_that_are_no_rows(policy: Policy, size: int) -> None:
    engine = make_engine(policy)
    for packed in (engine.packed, engine.packed_values):
        with pytest.raises(ValueError, match="expected"):
            packed(memoryview(bytes(size)))
