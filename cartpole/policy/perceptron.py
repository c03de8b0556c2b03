"""Reading the matrices of a multilayer perceptron out of a policy's TorchScript graph."""

import itertools
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from cartpole.policy.contract import OBSERVATIONS, Policy
from cartpole.policy.graph import NotPerceptron, constant, tensor
from cartpole.policy.loading import first_line
from cartpole.policy.normalization import Normalization, read_normalization

__all__ = ["NotPerceptron", "Perceptron", "pad_hidden_layers", "read_perceptron"]

# Hidden layers are padded to multiples of the widest vector register, 16 floats: compilers and BLAS
# compute the rest of a row by other instructions, more slowly and with other roundings.
WIDTH_GROUP = 16


@dataclass(frozen=True)
class Perceptron:
    """A policy network as plain matrices.

    Attributes:
        weights: one float32[inputs, outputs] per layer; a layer is x @ weight + bias.
        biases: one float32[outputs] per layer.
        activation: "tanh" or "relu", between the layers but not after the last one.
        normalization: what the first layer's inputs go through; None without it.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str
    normalization: Normalization | None = None


def read_perceptron(policy: Policy, head: int = 0) -> Perceptron:
    """Read a head's matrices from the policy's graph, walking from it back to the observation.

    Every node must lie on this walk: an operator beside it could overwrite the walk's tensors.

    Args:
        head: 0 for the logits, 1 for the value.

    Raises:
        NotPerceptron: the graph holds more than linear layers with tanh or ReLU between them.
    """
    try:
        graph = _graph_of(policy.module, head)
    except Exception as error:  # a module that can't be frozen may still run
        raise NotPerceptron(first_line(error)) from error
    observation = list(graph.inputs())[1]
    value = next(iter(graph.outputs()))
    layers: list[tuple[Tensor, Tensor]] = []
    activations: set[str] = set()
    normalization: Normalization | None = None
    visited: list[Any] = []
    while value != observation:
        if layers and value.node().kind() == "aten::to":
            value, normalization, nodes = read_normalization(value)
            visited += nodes
            break
        if layers:
            value = _activation(value, activations, visited)
        value, weight, bias, nodes = _linear(value)
        layers.insert(0, (weight, bias))
        visited += nodes
    if value != observation:
        raise NotPerceptron(value.node().kind())
    if len(activations) > 1:
        raise NotPerceptron("aten::relu and aten::tanh")
    _check_complete(graph, visited)
    weights, biases = zip(*layers, strict=True)
    _check_widths(weights, biases)
    activation = activations.pop() if activations else "tanh"
    return Perceptron(weights, biases, activation, normalization)


def _activation(value: Any, activations: set[str], visited: list[Any]) -> Any:
    """Note the activation that ends in this value. Returns the value of its inputs."""
    operator = value.node().kind().removesuffix("_")
    if operator not in ("aten::tanh", "aten::relu"):
        raise NotPerceptron(value.node().kind())
    activations.add(operator.removeprefix("aten::"))
    visited.append(value.node())
    return value.node().inputsAt(0)


def _check_widths(weights: tuple[Tensor, ...], biases: tuple[Tensor, ...]) -> None:
    widths = [OBSERVATIONS, *(len(bias) for bias in biases)]
    if [tuple(weight.shape) for weight in weights] != list(itertools.pairwise(widths)):
        raise NotPerceptron("a bias that is added to every output")


def _check_complete(graph: Any, visited: list[Any]) -> None:
    kinds = Counter(node.kind() for node in graph.nodes() if node.kind() != "prim::Constant")
    for kind in kinds - Counter(node.kind() for node in visited):
        raise NotPerceptron(kind)


def _graph_of(module: torch.jit.ScriptModule, head: int) -> Any:
    """The graph that computes one head alone, with all weights as constants."""
    if 'name="training"' in str(module.inlined_graph) and any(
        part.training for part in module.modules()
    ):
        raise NotPerceptron("training mode")  # freezing would switch it to evaluation mode
    graph = torch.jit.freeze(module.eval()).graph
    heads = next(iter(graph.outputs())).node()
    if heads.kind() != "prim::TupleConstruct":
        raise NotPerceptron(heads.kind())
    graph.eraseOutput(0)
    graph.registerOutput(heads.inputsAt(head))
    torch._C._jit_pass_dce(graph)  # removes the other head, except in-place writes to the rest
    return graph


def _linear(value: Any) -> tuple[Any, Tensor, Tensor, list[Any]]:
    """Read the linear layer that ends in this value.

    Returns:
        The value of its inputs, its weight [inputs, outputs], its bias [outputs], its nodes.
    """
    node = value.node()
    inputs = list(node.inputs())
    match node.kind():
        case "aten::linear":
            weight = tensor(inputs[1], 2).t()
            no_bias = constant(inputs[2]) is None
            bias = torch.zeros(weight.shape[1]) if no_bias else tensor(inputs[2], 1)
            return inputs[0], weight, bias, [node]
        case "aten::addmm" if constant(inputs[3]) == constant(inputs[4]) == 1:
            return inputs[1], tensor(inputs[2], 2), tensor(inputs[0], 1), [node]
        case "aten::matmul" | "aten::mm":  # optimize_for_inference makes it of a linear layer
            weight = tensor(inputs[1], 2)
            return inputs[0], weight, torch.zeros(weight.shape[1]), [node]
        case "aten::add" if constant(inputs[2]) == 1:
            product = inputs[0].node()
            if product.kind() in ("aten::matmul", "aten::mm"):
                read, weight = product.inputs()
                return read, tensor(weight, 2), tensor(inputs[1], 1), [node, product]
    raise NotPerceptron(node.kind())


def pad_hidden_layers(network: Perceptron) -> tuple[list[Tensor], list[Tensor]]:
    """Pad each hidden layer to a multiple of WIDTH_GROUP, with units of weight and bias 0.

    Returns:
        The weights, float32[inputs, outputs] each, and the biases, float32[outputs] each.
    """
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    more_inputs = 0
    for weight, bias in zip(network.weights, network.biases, strict=True):
        is_hidden = len(weights) + 1 < len(network.weights)
        more_outputs = -len(bias) % WIDTH_GROUP if is_hidden else 0
        weights.append(pad(weight, (0, more_outputs, 0, more_inputs)).contiguous())
        biases.append(pad(bias, (0, more_outputs)).contiguous())
        more_inputs = more_outputs
    return weights, biases
