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

from cartpole.api.observation import Observation
from cartpole.policy import verify as judge
from cartpole.policy.loading import ACTIONS, OBSERVATIONS, BadPolicy, Policy, first_line
from cartpole.policy.perceptron import NotPerceptron, Perceptron, padded, perceptron
from cartpole.policy.verify import Logits

MAX_BATCH = 1024
FORWARD_ROWS = 256  # rows that one forward computes at the most

# How BLAS sums a row depends on how many rows there are: a single row goes to another kernel than
# four, say. Rows are padded to a multiple of the first of these from which on it no longer does.
ROW_GROUPS = (1, 4, 8, 16)

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
        self._input_memory, self._output_memory = memory_of(self._input), memory_of(self._output)
        self._prepare(policy)

    def _prepare(self, policy: Policy) -> None:
        try:
            network = perceptron(policy)
            self._step, self._hidden = _perceptron_step(network)
            self._choose_row_group()
            judge.check(self, policy, network)
        except Exception as error:  # NotPerceptron, BadPolicy, what PyTorch says of odd weights
            logger.info("model %s runs its own forward: %s", policy.path, first_line(error))
            self._use_module(policy)

    def _use_module(self, policy: Policy) -> None:
        """Run the module's own forward, and more than a row at once only if that's the same."""
        self._step, self._hidden = _module_step(policy.module), []
        self._bind(1, rows=1)
        alone = judge.check_repeatable(self, policy)
        if _has_branches(policy.module) or not self._is_same_together(alone):
            self._bind(1, rows=1)

    def _is_same_together(self, alone: list[Logits | None]) -> bool:
        try:
            self._choose_row_group()
            return judge.agree_together(self, alone)
        except Exception:  # the module raises for some observations
            return False

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
            self._bind(group)
            alone = [self.one(*observation) for observation in observations]
            if all(
                self._forward(observations[-rows:]) == alone[-rows:]
                for rows in range(1, FORWARD_ROWS + 1)
            ):
                return
        self._rows = 1

    def _bind(self, group: int, rows: int = FORWARD_ROWS) -> None:
        """Compute up to `rows` rows at once, padded to a multiple of `group`."""
        self._rows = rows
        self._views: list[tuple[Any, ...]] = [
            self._tensors(number, group) for number in range(FORWARD_ROWS + 1)
        ]
        self.one = self._bind_one()

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
        from cartpole.policy.native import Native

        return Native(policy)
    except BadPolicy:
        raise
    except ImportError as error:
        reason = f"--engine native needs the extra, cartpole[native] ({first_line(error)})"
    except NotPerceptron as error:
        reason = f"model {policy.path}: --engine native can't compile its {error}"
    except Exception as error:  # of numba, LLVM or the system
        reason = f"model {policy.path}: --engine native fails: {first_line(error)}"
    raise BadPolicy(reason)


def memory_of(tensor: Tensor) -> memoryview:
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
    # instead costs half as much again (bench/micro.py: cartpole-inference). What torch.jit.trace
    # makes is kept for ever, 0.1 MiB a reload; a function of its own goes with its runner.
    source, target = torch.zeros(FORWARD_ROWS, OBSERVATIONS), torch.zeros(FORWARD_ROWS, ACTIONS)
    graph, _ = torch._C._create_graph_by_tracing(
        step, (source, *hidden, target, *hidden), lambda _: "", strict=True, force_outplace=False
    )
    return torch._C._create_function_from_graph("step", graph), hidden


def _module_step(module: torch.jit.ScriptModule) -> Step:
    """For policies that are no perceptron: their own forward, its answer copied into place."""

    def step(observations: Tensor, logits: Tensor) -> None:
        found: Tensor = module(observations)[0]
        if found.shape != logits.shape:  # copying would broadcast it
            raise RuntimeError(f"found logits {list(found.shape)} for {len(logits)} rows")
        logits.copy_(found.detach())

    return step


def _has_branches(module: torch.jit.ScriptModule) -> bool:
    """Whether one observation may decide how those beside it are computed."""
    graph: Any = module.inlined_graph
    return any(graph.findAllNodes(f"prim::{kind}") for kind in ("If", "Loop", "RaiseException"))
