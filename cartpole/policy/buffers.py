"""Preallocated memory of observations and logits, shared by the engines."""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import (
    ACTIONS,
    MAX_ROWS,
    OBSERVATIONS,
    Batch,
    Logits,
    Observation,
    One,
)

_OBSERVATION, _LOGITS = struct.Struct(f"{OBSERVATIONS}f"), struct.Struct(f"{ACTIONS}f")

Step = Callable[..., object]  # computes the logits of the first rows, from the observations there


class Buffers:
    """Memory of MAX_ROWS observations and of their logits, and the functions that go through it.

    Attributes:
        observations: float32[MAX_ROWS, 4], contiguous.
        logits: float32[MAX_ROWS, 2], contiguous.
    """

    def __init__(self, observations: Tensor, logits: Tensor) -> None:
        self.observations, self.logits = observations, logits
        self._source, self._target = memory_of(observations), memory_of(logits)

    @classmethod
    def allocate(cls) -> "Buffers":
        return cls(torch.zeros(MAX_ROWS, OBSERVATIONS), torch.zeros(MAX_ROWS, ACTIONS))

    def one(self, step: Step, arguments: tuple[Any, ...]) -> One:
        """Bind Engine.one to a step, called with the arguments that compute one row."""
        source, target = self._source, self._target
        pack, unpack = _OBSERVATION.pack_into, _LOGITS.unpack_from

        def one(
            position: float, velocity: float, angle: float, angular_velocity: float
        ) -> tuple[Any, ...]:
            pack(source, 0, position, velocity, angle, angular_velocity)
            step(*arguments)
            return unpack(target)

        return one

    def batch(self, step: Step, arguments: Sequence[tuple[Any, ...]]) -> Batch:
        """Bind Engine.batch to a step; arguments[n] makes it compute n rows."""
        source, target = self._source, self._target
        pack, unpack, size = struct.pack_into, _LOGITS.iter_unpack, _LOGITS.size

        def batch(observations: Sequence[Observation]) -> list[Logits]:
            rows = len(observations)
            if not 1 <= rows <= MAX_ROWS:
                raise _wrong_size(rows)
            values: list[float] = []
            for observation in observations:
                values += observation
            pack(f"{len(values)}f", source, 0, *values)
            step(*arguments[rows])
            return list(unpack(target[: rows * size]))

        return batch


def row_by_row(one: One) -> Batch:
    """An Engine.batch that computes each row alone."""

    def batch(observations: Sequence[Observation]) -> list[Logits]:
        if not 1 <= len(observations) <= MAX_ROWS:
            raise _wrong_size(len(observations))
        return [one(*observation) for observation in observations]

    return batch


def _wrong_size(rows: int) -> ValueError:
    return ValueError(f"{rows} observations, expected 1 to {MAX_ROWS}")


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous float32 tensor. The view keeps the tensor's memory alive."""
    array = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    array.tensor = tensor  # type: ignore[attr-defined]
    return memoryview(array).cast("B")
