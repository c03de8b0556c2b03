"""The policy compiled for this machine's vector instructions: the native engine.

TorchScript stays the judge: what is compiled is compared with it before it may serve.
"""

from collections.abc import Callable
from contextlib import suppress
from ctypes import CDLL, CFUNCTYPE, c_size_t, c_ssize_t, c_void_p
from functools import cache, partial
from itertools import accumulate, chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from cartpole.policy import verify as judge
from cartpole.policy.loading import ACTIONS, OBSERVATIONS, Policy
from cartpole.policy.perceptron import NotPerceptron, padded, perceptron
from cartpole.policy.torchscript import FORWARD_ROWS, Runner, memory_of
from cartpole.policy.verify import Logits

Array = NDArray[np.float32]

_ONE_AT = 9.02  # from here on the float32 nearest to tanh is 1
# tanh(x) / x = P(x²) / Q(x²), within 2.2e-8: tools/fit_tanh.py. Lowest power first.
_P = (1.0, 0.13382658, 0.0034974205, 2.0635102e-05, 1.3383110e-08)
_Q = (1.0, 0.46715979, 0.025884226, 0.00032884518, 7.7898033e-07)

# An operation may be fused with the next, and the sign of a zero sum is free; the order of a sum,
# infinities and what is not a number stay what they are.
_MATHEMATICS = {"contract", "nsz"}
_UNROLLED = 4  # inputs that are added to the sums at once; widths are multiples of it


_ALIGNED = 16  # floats; a cache line, a whole vector of any machine

MOST_LAYERS = 8  # layers are nested in each other: each takes longer to compile than the last


class Native(Runner):
    """Runs a perceptron policy as one compiled function. See Runner; not thread-safe either.

    Raises:
        NotPerceptron: the policy holds an operator that can't be compiled here.
        BadPolicy: the compiled function does not give the module's answers.
    """

    engine = "native"

    def _prepare(self, policy: Policy) -> None:
        network = perceptron(policy)
        if len(network.weights) > MOST_LAYERS:
            raise NotPerceptron(f"{len(network.weights)} layers, more than {MOST_LAYERS}")
        weights, biases = padded(network)
        widths = (OBSERVATIONS, *(len(bias) for bias in biases))
        source, target, *layers = _places(widths)
        memory = torch.zeros(layers[-1])
        for place, tensor in zip(layers, chain(*zip(weights, biases, strict=True)), strict=False):
            memory[place : place + tensor.numel()] = tensor.flatten()
        self._input = memory[source : source + FORWARD_ROWS * OBSERVATIONS]
        self._output = memory[target : target + FORWARD_ROWS * ACTIONS]
        self._input_memory, self._output_memory = memory_of(self._input), memory_of(self._output)
        one, rows = _compile(widths, network.activation)
        address = memory.data_ptr()
        self.one = bound = partial(one, address)
        bound.__dict__["memory"] = memory  # stays while it can be called, the runner or not
        # Faster than TorchScript at every number of rows (bench/micro.py: batch-…, native-batch-…).
        self._rows = FORWARD_ROWS
        self._step = CFUNCTYPE(None, c_ssize_t, c_ssize_t)(rows.address)
        self._views = [(address, number) for number in range(FORWARD_ROWS + 1)]
        judge.check(self, policy, network)
        _give_back_compiler()


def _places(widths: tuple[int, ...]) -> list[int]:
    """Where in a network's memory, in floats, everything begins; last its size.

    First float32[FORWARD_ROWS, 4] in and float32[FORWARD_ROWS, 2] out, then the weight and bias of
    each layer, then the values of each hidden layer.
    """
    layers = [size for before, after in pairwise(widths) for size in (before * after, after)]
    sizes = [FORWARD_ROWS * widths[0], FORWARD_ROWS * widths[-1], *layers, *widths[1:-1]]
    return list(accumulate((-(-size // _ALIGNED) * _ALIGNED for size in sizes), initial=0))


@cache  # numba keeps what it has compiled, 5 MiB, for ever: once for each shape of network
def _compile(widths: tuple[int, ...], activation: str) -> tuple[Callable[..., Logits], Any]:
    """Two functions: of the floats of an observation, and of the number of rows to compute.

    Both take the address of the network's memory first.
    """
    number = len(widths) - 1
    source, target, *places = (4 * place for place in _places(widths))  # bytes
    weights, biases = places[: 2 * number : 2], places[1 : 2 * number : 2]
    activations = [tanh if activation == "tanh" else relu] * (number - 1) + [identity]
    row: Any = None
    for shape, weight, bias, given, activate in zip(
        pairwise(widths), weights, biases, [0, *places[2 * number : -1]], activations, strict=True
    ):
        row = _layer(row, shape, weight, bias, given, activate)

    @njit((types.intp, *(types.float64,) * OBSERVATIONS))  # type: ignore[untyped-decorator]
    def one(
        memory: int, position: float, velocity: float, angle: float, angular_velocity: float
    ) -> Logits:
        observation = carray(_at(memory + source), OBSERVATIONS)
        logits = carray(_at(memory + target), ACTIONS)
        observation[0], observation[1] = position, velocity
        observation[2], observation[3] = angle, angular_velocity
        row(memory, observation, logits)
        return float(logits[0]), float(logits[1])

    @cfunc(types.void(types.intp, types.intp))  # type: ignore[untyped-decorator]
    def rows(memory: int, number: int) -> None:
        observations = carray(_at(memory + source), (FORWARD_ROWS, OBSERVATIONS))
        logits = carray(_at(memory + target), (FORWARD_ROWS, ACTIONS))
        for index in range(number):
            row(memory, observations[index], logits[index])

    # What numba's dispatcher calls once it has looked at the types, which are always the same.
    (compiled,) = one.overloads.values()
    return compiled.entry_point, rows


def _layer(
    before: Any, shape: tuple[int, int], weight_at: int, bias_at: int, given_at: int, activate: Any
) -> Any:
    """A function of one row, observation in and this layer's outputs out.

    Those before it write into the network's memory what this layer reads.
    """
    inputs, outputs = shape
    first = before is None

    @njit(fastmath=_MATHEMATICS)  # type: ignore[untyped-decorator]
    def run(memory: int, observation: Array, output: Array) -> None:
        weight = carray(_at(memory + weight_at), (inputs, outputs))
        bias = carray(_at(memory + bias_at), outputs)
        if first:
            given = observation
        else:
            given = carray(_at(memory + given_at), inputs)
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


def _give_back_compiler() -> None:
    """Nothing is compiled any more: Linux may have the pages back that hold LLVM's code, 70 MB."""
    pageout = 21  # MADV_PAGEOUT of linux/mman.h; loses nothing, a page that is wanted comes back
    with suppress(OSError, AttributeError):  # another system
        for line in Path("/proc/self/maps").read_text().splitlines():
            if "llvmlite" in line:
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                CDLL(None).madvise(c_void_p(start), c_size_t(end - start), pageout)


def _constants(values: tuple[float, ...]) -> tuple[np.float32, ...]:
    return tuple(map(np.float32, values))


_one_at, _one = np.float32(_ONE_AT), np.float32(1)
_p0, _p1, _p2, _p3, _p4 = _constants(_P)
_q0, _q1, _q2, _q3, _q4 = _constants(_Q)


@njit(fastmath=_MATHEMATICS)  # type: ignore[untyped-decorator]
def tanh(x: np.float32) -> np.float32:
    """The hyperbolic tangent of a float32, within 6 units in the last place (tests/test_native.py).

    Exact where the function is: ±0 and denormal numbers are themselves, ±1 from 9.02 on.
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


@intrinsic  # type: ignore[untyped-decorator]
def _at(context: Any, address: Any) -> Any:
    """A pointer to the float32 values at an address."""

    def generate(target: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], target.get_value_type(signature.return_type))

    return types.CPointer(types.float32)(types.intp), generate
