"""Whether an engine gives the module's own answers: nothing serves before it has been compared."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cartpole.api.observation import Observation
from cartpole.policy.loading import OBSERVATIONS, BadPolicy, Policy, first_line
from cartpole.policy.perceptron import Perceptron

if TYPE_CHECKING:
    from cartpole.policy.torchscript import Runner

Logits = tuple[float, float]

CHECKED = 10_000  # observations, at the start
_TOGETHER = 1000  # of them at once; each tenth makes as many
_FLOAT32 = torch.finfo(torch.float32)


def check(runner: "Runner", policy: Policy, network: Perceptron) -> None:
    """Hold it against the module within 1e-5 of the largest logit, and alone against together.

    Raises:
        BadPolicy: they differ, or the module raises.
    """
    for observations in samples().split(_TOGETHER):
        try:
            expected = policy.forward(observations)
        except Exception as error:
            reason = f"model {policy.path}: its forward fails: {first_line(error)}"
            raise BadPolicy(reason) from error
        rows = _rows(observations)
        alone, together = [runner.one(*row) for row in rows], runner.batch(rows)
        found = torch.tensor(alone)
        same = (found.view(torch.int32) == torch.tensor(together).view(torch.int32)).all(1)
        right = same & agree(found, expected)
        for number in (_defined(network, observations) & ~right).nonzero().flatten().tolist():
            raise BadPolicy(
                f"model {policy.path}: {runner.engine} answers {alone[number]} to {rows[number]}, "
                f"together with others {together[number]}, the module {expected[number].tolist()}"
            )


def check_repeatable(runner: "Runner", policy: Policy) -> list[Logits | None]:
    """Ask every tenth observation twice: its answers, none where the forward raises.

    Raises:
        BadPolicy: the answers differ.
    """
    rows = _rows(samples()[::10])
    first, second = ([_answer(runner, row) for row in rows] for _ in range(2))
    for row, before, after in zip(rows, first, second, strict=True):
        if repr(before) != repr(after):  # nan is nan
            raise BadPolicy(
                f"model {policy.path}: answers {before} to {row}, then {after}: answers must not "
                "depend on chance or on earlier observations (a dropout in training mode?)"
            )
    return first


def agree_together(runner: "Runner", alone: list[Logits | None]) -> bool:
    """Whether what check_repeatable gave holds, and to the bit the same alone and with others.

    Raises:
        Exception: what the forward raises.
    """
    rows = _rows(samples()[::10])
    found, expected = runner.batch(rows), torch.tensor(alone)
    near = agree(torch.tensor(found).nan_to_num(1e30), expected.nan_to_num(1e30))
    return bool(near.all()) and repr(found) == repr([runner.one(*row) for row in rows])


def _answer(runner: "Runner", row: Observation) -> Logits | None:
    try:
        return runner.one(*row)
    except Exception:
        return None


def _rows(observations: Tensor) -> list[Observation]:
    return [(row[0], row[1], row[2], row[3]) for row in observations.tolist()]


def agree(found: Tensor, expected: Tensor) -> Tensor:
    """By row: within 1e-5 of the largest logit (or of 1), and in the same order if that tells."""
    tolerance = 1e-5 * expected.abs().amax(1).clamp(min=1)
    near = (found - expected).abs().amax(1) <= tolerance
    lead, expected_lead = found[:, 0] - found[:, 1], expected[:, 0] - expected[:, 1]
    return near & ((lead.sign() == expected_lead.sign()) | (expected_lead.abs() <= tolerance))


def samples() -> Tensor:
    """float32[CHECKED, 4]: usual ones, the bounds of the environment, zeros, every magnitude."""
    generator = torch.Generator().manual_seed(0)

    def uniform(rows: int) -> Tensor:
        return torch.rand(rows, OBSERVATIONS, generator=generator) * 2 - 1

    edges = torch.tensor([0.0, -0.0, 2.4, 4.8, 0.2095, 0.418, _FLOAT32.tiny, _FLOAT32.max, 1e-45])
    edges = torch.cat([edges, -edges])
    chosen = torch.randint(len(edges), (3000, OBSERVATIONS), generator=generator)
    usual = uniform(4000) * torch.tensor([4.8, 5.0, 0.418, 5.0])
    magnitudes = 10 ** (uniform(CHECKED - 7000).double() * 41.5 - 3.5)  # 1e-45 to 1e38
    signs = uniform(CHECKED - 7000).sign()
    return torch.cat([usual, edges[chosen], (magnitudes * signs).float()])


def _defined(network: Perceptron, observations: Tensor) -> Tensor:
    """Which observations stay in the range of float32, in whatever order the sums are taken."""
    size, defined = observations.double().abs(), torch.ones(len(observations), dtype=torch.bool)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        size = size @ weight.double().abs() + bias.double().abs()
        defined &= (size < _FLOAT32.max).all(1)
        if network.activation == "tanh":
            size = size.clamp(max=1)
    return defined
