"""Preallocated memory of observations and of one head's outputs, shared by the engines."""

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import (
    ACTIONS,
    MAX_ROWS,
    OBSERVATION_BYTES,
    OBSERVATIONS,
    Batch,
    Logits,
    Observation,
    One,
    Packed,
)

_OBSERVATION = struct.Struct(f"{OBSERVATIONS}f")

Step = Callable[..., object]  # computes the outputs of the first rows, from the observations there


class Buffers:
    """Memory of MAX_ROWS observations and of their outputs, and the functions that go through it.

    Attributes:
        observations: float32[MAX_ROWS, 4], contiguous.
        outputs: float32[MAX_ROWS, columns], contiguous: the logits, or another head's.
    """

    def __init__(self, observations: Tensor, outputs: Tensor) -> None:
        self.observations, self.outputs = observations, outputs
        self._source, self._target = memory_of(observations), memory_of(outputs)
        self._row = struct.Struct(f"{outputs.shape[1]}f")

    @classmethod
    def allocate(cls, columns: int = ACTIONS) -> "Buffers":
        return cls(torch.zeros(MAX_ROWS, OBSERVATIONS), torch.zeros(MAX_ROWS, columns))

    def one(self, step: Step, arguments: tuple[Any, ...]) -> One:
        """Bind Engine.one to a step, called with the arguments that compute one row."""
        source, target = self._source, self._target
        pack, unpack = _OBSERVATION.pack_into, self._row.unpack_from

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
        pack, unpack, size = struct.pack_into, self._row.iter_unpack, self._row.size

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

    def packed(self, step: Step, arguments: Sequence[tuple[Any, ...]]) -> Packed:
        """Bind Engine.packed to a step, as `batch` does."""
        source, target, size = self._source, self._target, self._row.size

        def packed(observations: memoryview) -> bytes:
            rows = _rows_of(observations)
            source[: len(observations)] = observations
            step(*arguments[rows])
            return bytes(target[: rows * size])

        return packed

    def packed_row_by_row(self, step: Step, arguments: tuple[Any, ...]) -> Packed:
        """The same where each row is computed alone; the arguments are those of one row."""
        source, row = self._source[:OBSERVATION_BYTES], self._target[: self._row.size]

        def packed(observations: memoryview) -> bytes:
            found = bytearray()
            for number in range(_rows_of(observations)):
                start = number * OBSERVATION_BYTES
                source[:] = observations[start : start + OBSERVATION_BYTES]
                step(*arguments)
                found += row
            return bytes(found)

        return packed


def row_by_row(one: One) -> Batch:
    """An Engine.batch that computes each row alone."""

    def batch(observations: Sequence[Observation]) -> list[Logits]:
        if not 1 <= len(observations) <= MAX_ROWS:
            raise _wrong_size(len(observations))
        return [one(*observation) for observation in observations]

    return batch


def _rows_of(observations: memoryview) -> int:
    rows, rest = divmod(len(observations), OBSERVATION_BYTES)
    if rest:
        raise ValueError(f"{len(observations)} bytes, expected {OBSERVATION_BYTES} for each row")
    if not 1 <= rows <= MAX_ROWS:
        raise _wrong_size(rows)
    return rows


def _wrong_size(rows: int) -> ValueError:
    return ValueError(f"{rows} observations, expected 1 to {MAX_ROWS}")


def memory_of(tensor: Tensor) -> memoryview:
    """The bytes of a contiguous float32 tensor. The view keeps the tensor's memory alive."""
    array = (ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr())
    array.tensor = tensor  # type: ignore[attr-defined]
    return memoryview(array).cast("B")
