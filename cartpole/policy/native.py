"""The native engine: a perceptron compiled for this machine's vector instructions."""

from collections.abc import Callable
from ctypes import CFUNCTYPE, c_ssize_t
from functools import cache, partial
from itertools import accumulate, chain, pairwise
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from numpy.typing import NDArray

from cartpole.policy.buffers import Buffers
from cartpole.policy.contract import (
    ACTIONS,
    MAX_ROWS,
    OBSERVATIONS,
    Batch,
    Logits,
    One,
    Packed,
    Policy,
)
from cartpole.policy.native_memory import float32_at
from cartpole.policy.native_normalization import (
    NORMALIZATION_SIZE,
    compile_normalization,
    pack_normalization,
)
from cartpole.policy.perceptron import NotPerceptron, Perceptron, pad_hidden_layers

Array = NDArray[np.float32]

MOST_LAYERS = 8  # each layer's function inlines those before it: a deeper one compiles for longer

_ALIGNED = 16  # floats, 64 bytes: a cache line, and the widest vector register of any CPU
_UNROLLED = 4  # inputs added per pass over the sums, by hand in _layer; divides every width

# Floating-point liberties for LLVM: fused multiply-add, and any sign for a sum of zero. Not the
# order of a sum, which must not depend on the batch, and not the rules for infinity and NaN.
_FAST_MATH = {"contract", "nsz"}

_ONE_AT = 9.02  # tanh rounds to 1 in float32 from here on
# tanh(x) / x = P(x²) / Q(x²) with a relative error of 2.2e-8, fitted by tools/fit_tanh.py; the
# lowest power comes first.
_P = (1.0, 0.13382658, 0.0034974205, 2.0635102e-05, 1.3383110e-08)
_Q = (1.0, 0.46715979, 0.025884226, 0.00032884518, 7.7898033e-07)


class NativeEngine:
    """Runs a perceptron as one function, compiled once for each shape of network.

    See Engine for its attributes.

    Raises:
        NotPerceptron: the network has too many layers to compile.
    """

    name = "native"
    one: One
    batch: Batch
    packed: Packed
    packed_values: Packed

    def __init__(self, policy: Policy, network: Perceptron) -> None:
        if len(network.weights) > MOST_LAYERS:
            raise NotPerceptron(f"{len(network.weights)} layers, more than {MOST_LAYERS}")
        self.policy = policy
        weights, biases = pad_hidden_layers(network)
        widths = (OBSERVATIONS, *(len(bias) for bias in biases))
        source, target, numbers, _, *offsets, size = _offsets(widths)
        memory = torch.zeros(size)
        tensors = chain(*zip(weights, biases, strict=True))
        for offset, tensor in zip(offsets, tensors, strict=False):  # then come the hidden layers'
            memory[offset : offset + tensor.numel()] = tensor.flatten()
        if network.normalization:
            packed = pack_normalization(network.normalization)
            memory[numbers : numbers + len(packed)].copy_(packed)
        # The callback is kept, since ctypes holds no more than its address.
        compiled_one, self._compiled_rows = _compile(
            widths, network.activation, is_normalized=network.normalization is not None
        )
        address = memory.data_ptr()
        self.one = one = partial(compiled_one, address)
        one.__dict__["memory"] = memory  # must live as long as `one`, which may outlive the engine
        buffers = Buffers(
            memory[source : source + MAX_ROWS * OBSERVATIONS].view(MAX_ROWS, OBSERVATIONS),
            memory[target : target + MAX_ROWS * ACTIONS].view(MAX_ROWS, ACTIONS),
        )
        # Faster than TorchScript for any number of rows (bench/micro.py: native-batch-2 to -256).
        step = CFUNCTYPE(None, c_ssize_t, c_ssize_t)(self._compiled_rows.address)
        arguments = [(address, rows) for rows in range(MAX_ROWS + 1)]
        self.batch, self.packed = buffers.batch(step, arguments), buffers.packed(step, arguments)


def _offsets(widths: tuple[int, ...]) -> list[int]:
    """The layout of a network's memory, which is one float32 array.

    Returns:
        Offsets in floats: the observations [MAX_ROWS, 4], the logits [MAX_ROWS, 2], the numbers of
        a normalisation, a normalised observation, the weight and the bias of each layer, the values
        of each hidden layer; last the size of the whole.
    """
    layers = [size for before, after in pairwise(widths) for size in (before * after, after)]
    sizes = [MAX_ROWS * widths[0], MAX_ROWS * widths[-1], NORMALIZATION_SIZE, widths[0]]
    sizes += [*layers, *widths[1:-1]]
    return list(accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))


@cache  # numba never frees compiled code, 5 MiB: a reload of the same shape must not add to it
def _compile(
    widths: tuple[int, ...], activation: str, *, is_normalized: bool
) -> tuple[Callable[..., Logits], Any]:
    """Compile the network of these layer widths.

    Returns:
        Two functions, which take the address of the network's memory first: one takes the four
        floats of an observation and returns its logits; the other, a C callback, takes a number of
        rows and computes their logits from the observations in the memory.
    """
    source, target, *_ = (4 * at for at in _offsets(widths))  # bytes
    row = _row(widths, activation, is_normalized)

    @njit((types.intp, *(types.float64,) * OBSERVATIONS))  # type: ignore[untyped-decorator]
    def one(
        memory: int, position: float, velocity: float, angle: float, angular_velocity: float
    ) -> Logits:
        observation = carray(float32_at(memory + source), OBSERVATIONS)
        logits = carray(float32_at(memory + target), ACTIONS)
        observation[0], observation[1] = position, velocity
        observation[2], observation[3] = angle, angular_velocity
        row(memory, observation, logits)
        return float(logits[0]), float(logits[1])

    @cfunc(types.void(types.intp, types.intp))  # type: ignore[untyped-decorator]
    def rows(memory: int, number: int) -> None:
        observations = carray(float32_at(memory + source), (MAX_ROWS, OBSERVATIONS))
        logits = carray(float32_at(memory + target), (MAX_ROWS, ACTIONS))
        for index in range(number):
            row(memory, observations[index], logits[index])

    # The entry point is called without numba's dispatcher, which would look at the types each time.
    (compiled,) = one.overloads.values()
    return compiled.entry_point, rows


def _row(widths: tuple[int, ...], activation: str, is_normalized: bool) -> Any:
    """Define the function of the whole network, for one row."""
    layers = len(widths) - 1
    _, _, numbers, normalized, *offsets = (4 * at for at in _offsets(widths))  # bytes
    weights, biases = offsets[: 2 * layers : 2], offsets[1 : 2 * layers : 2]
    hidden = [normalized, *offsets[2 * layers : -1]]
    activations = [tanh if activation == "tanh" else relu] * (layers - 1) + [identity]
    row: Any = compile_normalization(numbers) if is_normalized else None
    for shape, weight, bias, inputs, activate in zip(
        pairwise(widths), weights, biases, hidden, activations, strict=True
    ):
        row = _layer(row, shape, weight, bias, inputs, activate)
    return row


def _layer(
    before: Any, shape: tuple[int, int], weight_at: int, bias_at: int, input_at: int, activate: Any
) -> Any:
    """Define the function of a layer and all layers before it, for one row.

    Args:
        before: the function of the layer before, or of the normalisation, which writes this
            layer's inputs; None if the layer reads the observation.
        shape: number of inputs, number of outputs.
        weight_at, bias_at: offsets of weight and bias in the network's memory, in bytes.
        input_at: offset of the inputs that `before` writes.
        activate: the activation, from one float to another.
    """
    inputs, outputs = shape
    first = before is None

    @njit(fastmath=_FAST_MATH)  # type: ignore[untyped-decorator]
    def run(memory: int, observation: Array, output: Array) -> None:
        weight = carray(float32_at(memory + weight_at), (inputs, outputs))
        bias = carray(float32_at(memory + bias_at), outputs)
        if first:
            given = observation
        else:
            given = carray(float32_at(memory + input_at), inputs)
            before(memory, observation, given)
        for j in range(outputs):
            output[j] = bias[j]
        for i in range(0, inputs, _UNROLLED):
            a, b, c, d = given[i], given[i + 1], given[i + 2], given[i + 3]
            for j in range(outputs):
                output[j] += (
                    a * weight[i, j]
                    + b * weight[i + 1, j]
                    + c * weight[i + 2, j]
                    + d * weight[i + 3, j]
                )
        for j in range(outputs):
            output[j] = activate(output[j])

    return run


def _constants(values: tuple[float, ...]) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, values))


_one_at, _one = np.float32(_ONE_AT), np.float32(1)
_p0, _p1, _p2, _p3, _p4 = _constants(_P)
_q0, _q1, _q2, _q3, _q4 = _constants(_Q)


@njit(fastmath=_FAST_MATH)  # type: ignore[untyped-decorator]
def tanh(x: np.float32) -> np.float32:
    """The hyperbolic tangent of a float32, within 6 units in the last place.

    ±0 and denormal numbers are returned as they are, ±1 from ±9.02 on, NaN for NaN.
    tests/policy/test_native.py checks all of it.
    """
    s = x * x
    p = (((_p4 * s + _p3) * s + _p2) * s + _p1) * s + _p0
    q = (((_q4 * s + _q3) * s + _q2) * s + _q1) * s + _q0
    y = x * (p / q)
    if x > _one_at:
        y = _one
    elif x < -_one_at:
        y = -_one
    return y


@njit  # type: ignore[untyped-decorator]
def relu(x: np.float32) -> np.float32:
    return np.float32(0) if x < np.float32(0) else x


@njit  # type: ignore[untyped-decorator]
def identity(x: np.float32) -> np.float32:
    return x
