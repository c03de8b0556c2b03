"""The contract between a policy, the engines that run it and their callers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

OBSERVATIONS, ACTIONS = 4, 2  # columns of an observation, columns of its logits
OBSERVATION_BYTES = 4 * OBSERVATIONS  # of float32

# The cost of a row is flat from 64 rows on (bench/micro.py: batch-2 to batch-256), and the first
# row of a larger batch would wait longer for the last.
MAX_ROWS = 256

Observation = tuple[float, float, float, float]  # position, velocity, angle, angular velocity
Logits = tuple[float, float]  # left, right: logits or, from a Q-network, Q-values
Outputs = Literal["logits", "q_values"]

One = Callable[[float, float, float, float], Logits]
Batch = Callable[[Sequence[Observation]], list[Logits]]
Packed = Callable[[memoryview], bytes]  # float32[n, 4] -> float32[n, columns], both as bytes


@dataclass(frozen=True)
class Policy:
    """A model file, loaded and checked.

    Attributes:
        path: the file.
        sha256: digest of the bytes that the weights were read from.
        module: float32[n, 4] -> (logits float32[n, 2], value float32[n, 1]), as loaded.
        algorithm: the training algorithm named by the metadata; "unknown" without metadata.
        outputs: what its answers are, "logits" or "q_values"; "logits" without metadata.
        metadata: the JSON object that tools/export_model.py stores in the file; empty without it.
    """

    path: Path
    sha256: str
    module: torch.jit.ScriptModule
    algorithm: str
    metadata: dict[str, Any]
    outputs: Outputs = "logits"

    def forward(self, observations: Tensor) -> Tensor:
        """Run the module itself, the reference for every engine.

        Args:
            observations: float32[n, 4], of any n.

        Returns:
            The logits, float32[n, 2].
        """
        logits: Tensor = self.module(observations.clone())[0]  # a module may overwrite its input
        return logits


class Engine(Protocol):
    """Computes the logits of a policy. Not thread-safe: its buffers are allocated once.

    An observation gets the same bits alone and in any batch, at any place in it.

    Attributes:
        name: "torchscript" or "native", for logs, metrics and health answers.
        policy: the policy that it runs.
        packed_values: float32[n, 4] to the value head's float32[n, 1], as `packed`. make_engine
            sets it.
    """

    name: str
    policy: Policy
    packed_values: Packed

    def one(
        self, position: float, velocity: float, angle: float, angular_velocity: float, /
    ) -> Logits:
        """The float32 logits of one observation of finite float32 values."""

    def batch(self, observations: Sequence[Observation], /) -> list[Logits]:
        """The logits of 1 to MAX_ROWS observations, in their order.

        Raises:
            ValueError: there are no observations, or more than MAX_ROWS.
        """

    def packed(self, observations: memoryview, /) -> bytes:
        """The same for float32[n, 4] as bytes, to the logits float32[n, 2] as bytes.

        Raises:
            ValueError: n is not 1 to MAX_ROWS, or the bytes are not whole rows.
        """
