"""Verification of an engine against the policy's own module, before it may serve."""

import torch
from torch import Tensor

from cartpole.policy.contract import MAX_ROWS, OBSERVATIONS, Engine, Logits, Observation, Policy
from cartpole.policy.loading import BadPolicy, first_line
from cartpole.policy.perceptron import Perceptron
from cartpole.policy.tolerance import rows_agree

SAMPLES = 10_000  # observations that an engine is verified on
_EVERY = 10  # the share of them that a module's own forward is verified on
_FLOAT32 = torch.finfo(torch.float32)


def verify(engine: Engine, policy: Policy, network: Perceptron) -> None:
    """Compare the engine's logits with the module's, and single rows with batches.

    Logits must agree as rows_agree says, and be the same to the bit alone and in a batch.
    Observations for which float32 may overflow are left out.

    Raises:
        BadPolicy: the logits differ, or the module raises.
    """
    for observations in sample_observations().split(MAX_ROWS):
        try:
            expected = policy.forward(observations)
        except Exception as error:
            reason = f"model {policy.path}: its forward fails: {first_line(error)}"
            raise BadPolicy(reason) from error
        rows = _rows(observations)
        alone, together = [engine.one(*row) for row in rows], engine.batch(rows)
        found = torch.tensor(alone)
        same = (found.view(torch.int32) == torch.tensor(together).view(torch.int32)).all(1)
        right = same & rows_agree(found, expected)
        wrong = within_float32(network, observations) & ~right
        for number in wrong.nonzero().flatten().tolist():
            raise BadPolicy(
                f"model {policy.path}: {engine.name} answers {alone[number]} to {rows[number]}, "
                f"{together[number]} in a batch, and the module {expected[number].tolist()}"
            )


def verify_repeatable(engine: Engine, policy: Policy) -> list[Logits | None]:
    """Run every tenth sample twice.

    Returns:
        The logits of each; None for an observation for which the forward raises.

    Raises:
        BadPolicy: the two runs differ.
    """
    rows = _rows(sample_observations()[::_EVERY])
    first, second = ([_logits_or_none(engine, row) for row in rows] for _ in range(2))
    for row, before, after in zip(rows, first, second, strict=True):
        if repr(before) != repr(after):  # repr, since NaN is not equal to itself
            raise BadPolicy(
                f"model {policy.path}: answers {before} to {row}, then {after}: answers must not "
                "depend on chance or on earlier observations (a dropout in training mode?)"
            )
    return first


def is_same_together(engine: Engine, expected: list[Logits | None]) -> bool:
    """Whether batches of an engine agree with the logits that verify_repeatable returned.

    They must also be the same to the bit as the engine's own single rows.

    Raises:
        Exception: an error of the module's forward.
    """
    rows = _rows(sample_observations()[::_EVERY])
    found: list[Logits] = []
    for start in range(0, len(rows), MAX_ROWS):
        found += engine.batch(rows[start : start + MAX_ROWS])
    near = rows_agree(torch.tensor(found).nan_to_num(1e30), torch.tensor(expected).nan_to_num(1e30))
    return bool(near.all()) and repr(found) == repr([engine.one(*row) for row in rows])


def sample_observations() -> Tensor:
    """Observations to verify an engine on, the same ones at each call.

    Returns:
        float32[SAMPLES, 4]: 4,000 uniform around the range of an episode; 3,000 combinations of
        zeros, the environment's bounds and the limits of float32; the rest of every magnitude.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(rows: int) -> Tensor:
        return torch.rand(rows, OBSERVATIONS, generator=generator) * 2 - 1

    edges = torch.tensor([0.0, -0.0, 2.4, 4.8, 0.2095, 0.418, _FLOAT32.tiny, _FLOAT32.max, 1e-45])
    edges = torch.cat([edges, -edges])
    chosen = torch.randint(len(edges), (3000, OBSERVATIONS), generator=generator)
    usual = uniform(4000) * torch.tensor([4.8, 5.0, 0.418, 5.0])
    magnitudes = 10 ** (uniform(SAMPLES - 7000).double() * 41.5 - 3.5)  # 1e-45 to 1e38
    signs = uniform(SAMPLES - 7000).sign()
    return torch.cat([usual, edges[chosen], (magnitudes * signs).float()])


def _logits_or_none(engine: Engine, row: Observation) -> Logits | None:
    try:
        return engine.one(*row)
    except Exception:
        return None


def _rows(observations: Tensor) -> list[Observation]:
    return [(row[0], row[1], row[2], row[3]) for row in observations.tolist()]


def within_float32(network: Perceptron, observations: Tensor) -> Tensor:
    """bool[n]: no partial sum of the row can overflow float32, in whatever order it is taken."""
    size, within = observations.double().abs(), torch.ones(len(observations), dtype=torch.bool)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        size = size @ weight.double().abs() + bias.double().abs()
        within &= (size < _FLOAT32.max).all(1)
        if network.activation == "tanh":
            size = size.clamp(max=1)
    return within
