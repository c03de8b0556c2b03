"""Normalisation of observations as compiled code, for the native engine."""

from typing import Any

import numpy as np
import torch
from numba import carray, njit
from numpy.typing import NDArray
from torch import Tensor

from cartpole.policy.contract import OBSERVATIONS
from cartpole.policy.native_memory import float64_at
from cartpole.policy.normalization import Normalization

_NUMBERS = 2 * OBSERVATIONS + 1
NORMALIZATION_SIZE = 2 * _NUMBERS  # floats that hold them

Array = NDArray[np.float32]


def pack_normalization(normalization: Normalization) -> Tensor:
    """Mean, deviation and clip as float64, seen as float32[NORMALIZATION_SIZE]."""
    clip = torch.tensor([normalization.clip], dtype=torch.float64)
    return torch.cat([normalization.mean, normalization.deviation, clip]).view(torch.float32)


def compile_normalization(numbers_at: int) -> Any:
    """Define the function that normalises one row.

    Args:
        numbers_at: offset of the numbers of pack_normalization in the network's memory, in bytes.
    """

    # NumPy's rules for a division: a check for zero would need Python's exceptions.
    @njit(error_model="numpy")  # type: ignore[untyped-decorator]
    def run(memory: int, observation: Array, output: Array) -> None:
        numbers = carray(float64_at(memory + numbers_at), _NUMBERS)
        clip = numbers[2 * OBSERVATIONS]
        for i in range(OBSERVATIONS):
            wide = (np.float64(observation[i]) - numbers[i]) / numbers[OBSERVATIONS + i]
            output[i] = np.float32(min(max(wide, -clip), clip))

    return run
