"""Reading constants out of a TorchScript graph."""

from typing import Any

import torch
from torch import Tensor


class NotPerceptron(Exception):
    """The policy is not a plain multilayer perceptron. The text names the obstacle."""


def constant(value: Any) -> Any:
    """The constant that stands behind a value of the graph.

    Raises:
        NotPerceptron: it depends on other values.
    """
    node = value.node()
    if node.kind() != "prim::Constant":
        raise NotPerceptron(node.kind())
    return value.toIValue()


def tensor(value: Any, dimensions: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A constant tensor of this type with so many dimensions.

    Raises:
        NotPerceptron: it is something else.
    """
    match constant(value):
        case Tensor(layout=torch.strided) as found if (
            found.ndim == dimensions and found.dtype == dtype
        ):
            return found.detach()
    name = str(dtype).removeprefix("torch.")
    raise NotPerceptron(f"weights that are not a {name} tensor of {dimensions} dimensions")
