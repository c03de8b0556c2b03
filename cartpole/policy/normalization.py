"""Normalisation of observations in front of a perceptron, as Stable-Baselines3's VecNormalize."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import OBSERVATIONS
from cartpole.policy.graph import NotPerceptron, constant, tensor


@dataclass(frozen=True)
class Normalization:
    """clip((observation - mean) / deviation), computed in float64 and rounded to float32.

    The formula is that of VecNormalize.normalize_obs.

    Attributes:
        mean, deviation: float64[4] each.
        clip: the largest magnitude of a result.
    """

    mean: Tensor
    deviation: Tensor
    clip: float

    def __call__(self, observations: Tensor) -> Tensor:
        """float32[n, 4] -> float32[n, 4]"""
        wide = (observations - self.mean) / self.deviation
        return wide.clamp(-self.clip, self.clip).float()


def read_normalization(value: Any) -> tuple[Any, Normalization, list[Any]]:
    """Read the normalisation that ends in this value of a graph.

    Returns:
        The value that it normalises, the normalisation, its nodes.

    Raises:
        NotPerceptron: the value is not computed by the nodes of Normalization.
    """
    nodes: list[Any] = []
    arguments: list[list[Any]] = []
    for kind in ("aten::to", "aten::clamp", "aten::div", "aten::sub"):
        node = value.node()
        inputs = list(node.inputs())
        if node.kind() != kind:
            raise NotPerceptron(node.kind())
        nodes.append(node)
        arguments.append(inputs[1:])
        value = inputs[0]
    kinds, limits, divisor, subtrahend = arguments
    if _constants(kinds) != [FLOAT32, False, False, None]:
        raise NotPerceptron("aten::to another type")
    low, clip = _constants(limits)
    if not (isinstance(clip, float) and low == -clip < 0):
        raise NotPerceptron("aten::clamp with unequal limits")
    if len(divisor) != 1 or constant(subtrahend[1]) != 1:
        raise NotPerceptron("aten::div with rounding, or aten::sub with a factor")
    mean, deviation = (tensor(side[0], 1, torch.float64) for side in (subtrahend, divisor))
    if not (mean.shape == deviation.shape == (OBSERVATIONS,)):
        raise NotPerceptron("a normalisation of another number of values")
    if not (mean.isfinite().all() and deviation.isfinite().all() and deviation.all()):
        raise NotPerceptron("a normalisation by zero or by numbers that are not finite")
    return value, Normalization(mean, deviation, clip), nodes


FLOAT32 = 6  # how TorchScript's graphs write torch.float32


def _constants(values: list[Any]) -> list[Any]:
    return [constant(value) for value in values]
