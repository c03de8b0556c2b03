"""Preallocated tensors: one observation, or a batch, in; action logits out.

An observation gives the same bits alone and in any batch, at any place in it.
"""

import ctypes
import logging
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from cartpole.observation import Observation
from cartpole.policy import (
    ACTIONS,
    OBSERVATIONS,
    BadPolicy,
    NotPerceptron,
    Perceptron,
    Policy,
    perceptron,
)

Logits = tuple[float, float]

MAX_BATCH = 1024
FORWARD_ROWS = 256  # rows that one forward computes at the most

# How BLAS sums a row depends on how many rows there are: a single row goes to another kernel than
# four, say. Rows are padded to a multiple of the first of these from which on it no longer does.
ROW_GROUPS = (1, 4, 8, 16)
WIDTH_GROUP = 16  # hidden layers are padded to whole vectors, so that no unit is in a remainder

_OBSERVATION, _LOGITS = struct.Struct(f"{OBSERVATIONS}f"), struct.Struct(f"{ACTIONS}f")

Step = Callable[..., Any]  # takes what Runner._views holds for a number of rows; computes them

logger = logging.getLogger("cartpole")


def set_threads(intra_op: int) -> None:
    """Set PyTorch's thread counts: before its first operation, or the inter-op one stays."""
    torch.set_num_threads(intra_op)
    with suppress(RuntimeError):  # set before, or work has begun; it only adds an idle pool
        torch.set_num_interop_threads(1)


class Runner:
    """Runs a policy on observations, through tensors that are allocated once. Not thread-safe.

    Attributes:
        policy: the policy that it runs.
        engine: which engine computes, for logs and health answers.
        one: (position, velocity, angle, angular_velocity) -> (left, right): the float32 logits of
            one observation of finite float32 values.
    """

    engine = "torchscript"
    one: Callable[[float, float, float, float], Logits]

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._input = torch.zeros(FORWARD_ROWS, OBSERVATIONS)
        self._output = torch.zeros(FORWARD_ROWS, ACTIONS)
        self._input_memory, self._output_memory = _memory(self._input), _memory(self._output)
        self._prepare(policy)

    def _prepare(self, policy: Policy) -> None:
        try:
            self._step, self._hidden = _perceptron_step(perceptron(policy))
        except NotPerceptron:
            self._step, self._hidden = _module_step(policy.forward), []
        self._choose_row_group()

    def batch(self, observations: Sequence[Observation]) -> list[Logits]:
        """Run 1 to 1,024 observations: one (left, right) for each, in their order.

        Raises:
            ValueError: more observations than MAX_BATCH.
        """
        if len(observations) > MAX_BATCH:
            raise ValueError(f"{len(observations)} observations, at most {MAX_BATCH} expected")
        logits: list[Logits] = []
        for start in range(0, len(observations), self._rows):
            logits += self._forward(observations[start : start + self._rows])
        return logits

    def _forward(self, observations: Sequence[Observation]) -> list[Logits]:
        rows = len(observations)
        values: list[float] = []
        for observation in observations:
            values += observation
        struct.pack_into(f"{len(values)}f", self._input_memory, 0, *values)
        self._step(*self._views[rows])
        return list(_LOGITS.iter_unpack(self._output_memory[: rows * _LOGITS.size]))

    def _choose_row_group(self) -> None:
        """Also warms up: every number of rows is run through every operator more than once."""
        generator = torch.Generator().manual_seed(0)
        scale = torch.tensor([2.4, 3.0, 0.21, 3.0])
        samples = torch.randn(FORWARD_ROWS, OBSERVATIONS, generator=generator) * scale
        observations: list[Observation] = [tuple(row) for row in samples.tolist()]
        for group in ROW_GROUPS:
            self._rows = FORWARD_ROWS
            self._views: list[tuple[Any, ...]] = [
                self._tensors(rows, group) for rows in range(FORWARD_ROWS + 1)
            ]
            self.one = self._bind_one()
            alone = [self.one(*observation) for observation in observations]
            if all(
                self._forward(observations[-rows:]) == alone[-rows:]
                for rows in range(1, FORWARD_ROWS + 1)
            ):
                return
        self._rows = 1

    def _tensors(self, rows: int, group: int) -> tuple[Tensor, ...]:
        """The step's arguments: all rows that are computed, then those that are activated."""
        padded = -(-rows // group) * group
        computed = (tensor[:padded] for tensor in (self._input, *self._hidden, self._output))
        return *computed, *(tensor[:rows] for tensor in self._hidden)

    def _bind_one(self) -> Callable[[float, float, float, float], Logits]:
        step, tensors = self._step, self._views[1]
        source, target = self._input_memory, self._output_memory
        pack, unpack = _OBSERVATION.pack_into, _LOGITS.unpack_from

        def one(
            position: float, velocity: float, angle: float, angular_velocity: float
        ) -> tuple[float, float]:
            pack(source, 0, position, velocity, angle, angular_velocity)
            step(*tensors)
            return unpack(target)

        return one


def make_runner(policy: Policy, engine: str = "torchscript") -> Runner:
    """The runner of an engine: torchscript, native, or auto: native where it can be had.

    Raises:
        BadPolicy: native can't be had; the text says why.
    """
    if engine == "torchscript":
        return Runner(policy)
    try:
        runner = _native(policy)
    except BadPolicy as error:
        if engine == "native":
            raise
        logger.info("engine auto: torchscript, since native can't be had: %s", error)
        return Runner(policy)
    if engine == "auto":
        logger.info("engine auto: native, checked against TorchScript")
    return runner


def _native(policy: Policy) -> Runner:
    try:
        from cartpole.native import Native
    except ImportError as error:
        reason = f"--engine native needs the extra, cartpole[native] ({error})"
        raise BadPolicy(reason) from error
    try:
        return Native(policy)
    except NotPerceptron as error:
        reason = f"model {policy.path}: --engine native can't compile its {error}"
        raise BadPolicy(reason) from error


def _memory(tensor: Tensor) -> memoryview:
    """A float32 tensor's own memory; the tensor must be kept alive."""
    return memoryview((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())).cast("B")


def _perceptron_step(network: Perceptron) -> tuple[Step, list[Tensor]]:
    """A TorchScript function that writes into the tensors it is given, and its hidden tensors."""
    weights, biases = padded(network)
    hidden = [torch.zeros(FORWARD_ROWS, len(bias)) for bias in biases[:-1]]
    activate = Tensor.tanh_ if network.activation == "tanh" else Tensor.relu_

    def step(*tensors: Tensor) -> Tensor:
        layers, activated = tensors[: len(weights) + 1], tensors[len(weights) + 1 :]
        for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            torch.addmm(bias, layers[index], weight, out=layers[index + 1])
            if index < len(activated):
                activate(activated[index])
        return layers[-1]

    # Tracing unrolls the loop over the layers: passing lists of tensors to a scripted function
    # instead costs half as much again (bench/micro.py: cartpole-inference).
    source, target = torch.zeros(FORWARD_ROWS, OBSERVATIONS), torch.zeros(FORWARD_ROWS, ACTIONS)
    return torch.jit.trace(step, (source, *hidden, target, *hidden), check_trace=False), hidden


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


def _module_step(forward: torch.jit.ScriptModule) -> Step:
    """For policies that are no perceptron: their own forward, its answer copied into place."""

    def step(observations: Tensor, logits: Tensor) -> None:
        logits.copy_(forward(observations))

    return step
