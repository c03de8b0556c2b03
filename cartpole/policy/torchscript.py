"""The engines that run in PyTorch: a traced perceptron, and the module's own forward."""

from typing import Any

import torch
from torch import Tensor

from cartpole.policy.buffers import Buffers, Step, row_by_row
from cartpole.policy.contract import (
    MAX_ROWS,
    OBSERVATIONS,
    Batch,
    Observation,
    One,
    Packed,
    Policy,
)
from cartpole.policy.normalization import Normalization
from cartpole.policy.perceptron import Perceptron, pad_hidden_layers

# BLAS picks its kernel, and with it the order of a sum, by the number of rows. Batches are padded
# to a multiple of the smallest of these sizes that gives every row the bits of a single row.
ROW_GROUPS = (1, 4, 8, 16)


class TorchScriptEngine:
    """Runs a perceptron as one traced function that writes into tensors allocated once.

    See Engine for its attributes. It computes the policy head only.
    """

    name = "torchscript"
    one: One
    batch: Batch
    packed: Packed
    packed_values: Packed

    def __init__(self, policy: Policy, network: Perceptron) -> None:
        self.policy = policy
        step, hidden = trace_step(network)
        self.one, self.batch, self.packed = bind_together(Buffers.allocate(), step, hidden)


class ModuleEngine:
    """Runs the module's own forward, for policies that are not perceptrons.

    See Engine for its attributes.

    Args:
        policy: any policy.
        together: run a batch in one forward. Only for a module whose rows don't affect each other;
            without it each row is a forward.

    Raises:
        Exception: with `together`, the error of a forward that fails for some observations.
    """

    name = "torchscript"
    one: One
    batch: Batch
    packed: Packed
    packed_values: Packed

    def __init__(self, policy: Policy, *, together: bool = False) -> None:
        self.policy = policy
        buffers, step = Buffers.allocate(), module_step(policy.module)
        bind = bind_together if together else bind_alone
        self.one, self.batch, self.packed = bind(buffers, step, [])


def has_branches(module: torch.jit.ScriptModule) -> bool:
    """Whether the graph holds a branch, so that one row may decide how others are computed."""
    graph: Any = module.inlined_graph
    return any(graph.findAllNodes(f"prim::{kind}") for kind in ("If", "Loop", "RaiseException"))


def trace_step(network: Perceptron) -> tuple[Step, list[Tensor]]:
    """Trace a perceptron into one TorchScript function.

    Returns:
        The function and its hidden tensors, float32[MAX_ROWS, width] each. Its arguments are the
        observations, the hidden tensors and the outputs, of as many rows as BLAS shall compute,
        then the hidden tensors once more, of as many rows as shall be activated. It overwrites the
        hidden tensors and the outputs.
    """
    weights, biases = pad_hidden_layers(network)
    hidden = [torch.zeros(MAX_ROWS, len(bias)) for bias in biases[:-1]]
    activate = Tensor.tanh_ if network.activation == "tanh" else Tensor.relu_

    def step(*tensors: Tensor) -> Tensor:
        layers, activated = tensors[: len(weights) + 1], tensors[len(weights) + 1 :]
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            torch.addmm(bias, layers[index], weight, out=layers[index + 1])
            if index < len(activated):
                activate(activated[index])
        return layers[-1]

    whole: Step = step
    if network.normalization:
        normalized = [torch.zeros(MAX_ROWS, OBSERVATIONS, dtype=kind) for kind in _PRECISIONS]
        whole = _normalize_first(network.normalization, step, len(weights))
        hidden = [*normalized, *hidden]

    # Tracing unrolls the loop over the layers. A scripted function that takes lists of tensors
    # costs half as much again (bench/micro.py: cartpole-inference). torch.jit.trace would keep
    # 0.1 MiB for ever at each reload; a function made from the graph is freed with its engine.
    source, target = torch.zeros(MAX_ROWS, OBSERVATIONS), torch.zeros(MAX_ROWS, len(biases[-1]))
    graph, _ = torch._C._create_graph_by_tracing(
        whole, (source, *hidden, target, *hidden), lambda _: "", strict=True, force_outplace=False
    )
    return torch._C._create_function_from_graph("step", graph), hidden


# Of the normalised observations: first as they are computed, then as the layers read them.
_PRECISIONS = (torch.float64, torch.float32)


def _normalize_first(normalization: Normalization, step: Step, layers: int) -> Step:
    """A step with two more hidden tensors before the others: the normalised observations."""
    mean, deviation, clip = normalization.mean, normalization.deviation, normalization.clip

    def whole(observations: Tensor, wide: Tensor, narrow: Tensor, *rest: Tensor) -> object:
        torch.sub(observations, mean, out=wide)
        wide.div_(deviation).clamp_(-clip, clip)
        narrow.copy_(wide)
        return step(narrow, *rest[:layers], *rest[layers + len(_PRECISIONS) :])

    return whole


def module_step(module: torch.jit.ScriptModule, head: int = 0) -> Step:
    """A step that copies a head's outputs into the buffer: 0 for the logits, 1 for the value."""

    def step(observations: Tensor, outputs: Tensor) -> None:
        found: Tensor = module(observations)[head]
        if found.shape != outputs.shape:  # copy_ would broadcast it
            raise RuntimeError(f"found outputs {list(found.shape)} for {len(outputs)} rows")
        outputs.copy_(found.detach())

    return step


def bind_together(buffers: Buffers, step: Step, hidden: list[Tensor]) -> tuple[One, Batch, Packed]:
    """Find the row group in which every batch size gives the bits of single rows.

    Without such a group, a batch is computed row by row. The search also warms up: each number of
    rows runs through every operator more than once.
    """
    observations = _random_observations()
    for group in ROW_GROUPS:
        arguments = [_arguments(buffers, hidden, rows, group) for rows in range(MAX_ROWS + 1)]
        one, batch = buffers.one(step, arguments[1]), buffers.batch(step, arguments)
        alone = [one(*observation) for observation in observations]
        if all(batch(observations[-rows:]) == alone[-rows:] for rows in range(1, MAX_ROWS + 1)):
            return one, batch, buffers.packed(step, arguments)
    return bind_alone(buffers, step, hidden)


def bind_alone(buffers: Buffers, step: Step, hidden: list[Tensor]) -> tuple[One, Batch, Packed]:
    """The functions of an engine that computes each row of a batch alone."""
    arguments = _arguments(buffers, hidden, rows=1, group=1)
    one = buffers.one(step, arguments)
    return one, row_by_row(one), buffers.packed_row_by_row(step, arguments)


def _arguments(buffers: Buffers, hidden: list[Tensor], rows: int, group: int) -> tuple[Tensor, ...]:
    """The tensors that a step takes for so many rows, see trace_step."""
    padded = -(-rows // group) * group
    computed = (tensor[:padded] for tensor in (buffers.observations, *hidden, buffers.outputs))
    return *computed, *(tensor[:rows] for tensor in hidden)


def _random_observations() -> list[Observation]:
    """MAX_ROWS observations in and around the range of an episode."""
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([2.4, 3.0, 0.21, 3.0])
    samples = torch.randn(MAX_ROWS, OBSERVATIONS, generator=generator) * scale
    return [(row[0], row[1], row[2], row[3]) for row in samples.tolist()]
