"""A policy's TorchScript graph to plain matrices: multilayer perceptrons, and nothing else."""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from cartpole.policy.loading import OBSERVATIONS, Policy, first_line

WIDTH_GROUP = 16  # hidden layers are padded to whole vectors, so that no unit is in a remainder


class NotPerceptron(Exception):
    """The policy is not a plain multilayer perceptron. The text names what was met instead."""


@dataclass(frozen=True)
class Perceptron:
    """The policy network as plain matrices.

    Attributes:
        weights: one float32[inputs, outputs] per layer, so that a layer is x @ weight + bias.
        biases: one float32[outputs] per layer.
        activation: "tanh" or "relu", between the layers; none follows the last one.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str


def perceptron(policy: Policy) -> Perceptron:
    """Read the weights out of the policy's graph, walking from the logits back to the observation.

    Every node must be met on this walk: an operator beside it may write into what it reads.

    Raises:
        NotPerceptron: there is more than linear layers with tanh or ReLU between them.
    """
    try:
        graph = _logits_graph(policy.module)
    except Exception as error:  # what can't be frozen can still be run
        raise NotPerceptron(first_line(error)) from error
    observation = list(graph.inputs())[1]
    value = next(iter(graph.outputs()))
    layers: list[tuple[Tensor, Tensor]] = []
    activations: set[str] = set()
    nodes: list[Any] = []  # those that were met
    while True:
        value, weight, bias, linear = _linear(value)
        layers.insert(0, (weight, bias))
        nodes += linear
        if value == observation:
            break
        operator = value.node().kind()
        if operator.removesuffix("_") not in ("aten::tanh", "aten::relu"):
            raise NotPerceptron(operator)
        activations.add(operator.removesuffix("_").removeprefix("aten::"))
        nodes.append(value.node())
        value = value.node().inputsAt(0)
    if len(activations) > 1:
        raise NotPerceptron("aten::relu and aten::tanh")
    kinds = Counter(node.kind() for node in graph.nodes() if node.kind() != "prim::Constant")
    for unmet in kinds - Counter(node.kind() for node in nodes):
        raise NotPerceptron(unmet)
    weights, biases = zip(*layers, strict=True)
    widths = [OBSERVATIONS, *(len(bias) for bias in biases)]
    if [tuple(weight.shape) for weight in weights] != list(itertools.pairwise(widths)):
        raise NotPerceptron("a bias that is added to every output")
    return Perceptron(weights, biases, activations.pop() if activations else "tanh")


def _logits_graph(module: torch.jit.ScriptModule) -> Any:
    """What computes the logits, with all attributes as constants; the value head is left out."""
    if 'name="training"' in str(module.inlined_graph) and any(
        part.training for part in module.modules()
    ):
        raise NotPerceptron("training mode")  # freezing would take it for evaluation mode
    graph = torch.jit.freeze(module.eval()).graph
    heads = next(iter(graph.outputs())).node()
    if heads.kind() != "prim::TupleConstruct":
        raise NotPerceptron(heads.kind())
    graph.eraseOutput(0)
    graph.registerOutput(heads.inputsAt(0))
    torch._C._jit_pass_dce(graph)  # keeps whatever writes into a value that is still needed
    return graph


def _linear(value: Any) -> tuple[Any, Tensor, Tensor, list[Any]]:
    """One linear layer that ends in this value.

    Returns:
        what it reads, its weight [inputs, outputs], its bias [outputs], and its nodes.
    """
    node = value.node()
    inputs = list(node.inputs())
    match node.kind():
        case "aten::linear":
            weight = _tensor(inputs[1], 2).t()
            without = _constant(inputs[2]) is None
            bias = torch.zeros(weight.shape[1]) if without else _tensor(inputs[2], 1)
            return inputs[0], weight, bias, [node]
        case "aten::addmm" if _constant(inputs[3]) == _constant(inputs[4]) == 1:
            return inputs[1], _tensor(inputs[2], 2), _tensor(inputs[0], 1), [node]
        case "aten::add" if _constant(inputs[2]) == 1:
            product = inputs[0].node()
            if product.kind() in ("aten::matmul", "aten::mm"):
                read, weight = product.inputs()
                return read, _tensor(weight, 2), _tensor(inputs[1], 1), [node, product]
    raise NotPerceptron(node.kind())


def _constant(value: Any) -> Any:
    node = value.node()
    if node.kind() != "prim::Constant":
        raise NotPerceptron(node.kind())
    return value.toIValue()


def _tensor(value: Any, dimensions: int) -> Tensor:
    constant = _constant(value)
    match constant:
        case Tensor(dtype=torch.float32, layout=torch.strided, ndim=found) if found == dimensions:
            return constant.detach()
    raise NotPerceptron(f"weights that are no float32 tensor of {dimensions} dimensions")


def padded(network: Perceptron) -> tuple[list[Tensor], list[Tensor]]:
    """The same weights and biases with units added that are always 0 and weigh nothing."""
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    inputs = 0
    for weight, bias in zip(network.weights, network.biases, strict=True):
        outputs = -len(bias) % WIDTH_GROUP if len(weights) + 1 < len(network.weights) else 0
        weights.append(pad(weight, (0, outputs, 0, inputs)).contiguous())
        biases.append(pad(bias, (0, outputs)).contiguous())
        inputs = outputs
    return weights, biases
