"""A policy that answers questions in Python: one observation, or rows of them.

The service asks the same object; its policy can be replaced while it serves.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from time import perf_counter_ns as clock
from typing import Protocol

from cartpole.metrics.counters import WorkerCounters
from cartpole.policy.contract import (
    MAX_ROWS,
    OBSERVATION_BYTES,
    OBSERVATIONS,
    Engine,
    Logits,
    Observation,
)
from cartpole.policy.engine import make_engine, one_thread, set_threads
from cartpole.policy.loading import BadPolicy, Policy, read_file
from cartpole.policy.loading import load as load_policy
from cartpole.settings import BUNDLED_MODEL

__all__ = [
    "FLOAT32_OVERFLOW",
    "MAX_ROWS",
    "OBSERVATIONS",
    "OBSERVATION_BYTES",
    "BadPolicy",
    "Engine",
    "Logits",
    "Observation",
    "Policy",
    "Predictor",
    "checked",
    "load",
    "load_engine",
    "make_engine",
    "read_file",
    "set_threads",
]

# Doubles from here on round to infinity in float32: the largest float32 plus half its last digit.
FLOAT32_OVERFLOW = 2.0**128 - 2.0**103

_SLICE_BYTES = MAX_ROWS * OBSERVATION_BYTES


class Array(Protocol):
    """An array of numbers, such as a NumPy array or a PyTorch tensor."""

    def tolist(self) -> list[list[float]]: ...


class Predictor:
    """Answers observations with action logits. Not thread-safe.

    An observation is the state of gymnasium's CartPole-v1: position (m), velocity (m/s), angle
    (rad) and angular velocity (rad/s), each finite as float32. Its answer is a pair of float32
    logits, left and right; the policy's action is the larger one. Equal observations give equal
    bits, alone or among others.

    Attributes:
        counters: what counts the forwards.
        engine: what computes the answers; see `use`.
        policy: the model file that they come from.
    """

    def __init__(self, engine: Engine, counters: WorkerCounters | None = None) -> None:
        self.counters = counters or WorkerCounters()
        self.use(engine)

    def use(self, engine: Engine) -> None:
        """Answer with this engine, and so with its policy, from now on."""
        self.engine = engine
        self.policy: Policy = engine.policy
        self._one, self._batch = engine.one, engine.batch

    def __call__(
        self, position: float, velocity: float, angle: float, angular_velocity: float
    ) -> Logits:
        """The logits (left, right) of one observation.

        Raises:
            ValueError: a value is not finite as float32.
        """
        return self.predict(checked((position, velocity, angle, angular_velocity)))

    def batch(self, observations: Sequence[Sequence[float]] | Array) -> list[Logits]:
        """The logits (left, right) of each row of float[n, 4], in order.

        Args:
            observations: a sequence of rows, or an array or tensor of shape [n, 4].

        Raises:
            ValueError: a row has not four values, or a value is not finite as float32.
        """
        rows: Iterable[Sequence[float]]
        rows = observations if isinstance(observations, Sequence) else observations.tolist()
        found = [checked(row, number) for number, row in enumerate(rows)]
        logits: list[Logits] = []
        for start in range(0, len(found), MAX_ROWS):
            logits += self.predict_all(found[start : start + MAX_ROWS])
        return logits

    def predict(self, observation: Observation) -> Logits:
        """The same as calling it, without the checks.

        Raises:
            Exception: whatever the policy's forward raises.
        """
        started = clock()
        logits = self._one(*observation)
        self.counters.record_forward(1, clock() - started)
        return logits

    def predict_all(self, observations: Sequence[Observation]) -> list[Logits]:
        """The same for 1 to MAX_ROWS observations, by one forward.

        Raises:
            Exception: whatever the policy's forward raises, be it for one observation alone.
        """
        started = clock()
        logits = self._batch(observations)
        self.counters.record_forward(len(observations), clock() - started)
        return logits

    def packed(
        self, observations: memoryview, logits: bool = True, values: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """The same for float32[n, 4] as bytes, MAX_ROWS at a time: the caller may pause between.

        All of it is computed by the engine of the first call, whatever `use` is called with.

        Args:
            observations: the bytes of finite float32 values, of at least one row.
            logits, values: the heads to compute.

        Yields:
            The logits float32[m, 2] and the values float32[m, 1] of the next m rows, as bytes;
            empty for a head that is not computed.

        Raises:
            Exception: whatever the policy's forward raises, be it for one observation alone.
        """
        engine = self.engine
        for start in range(0, len(observations), _SLICE_BYTES):
            rows = observations[start : start + _SLICE_BYTES]
            started = clock()
            found = (
                engine.packed(rows) if logits else b"",
                engine.packed_values(rows) if values else b"",
            )
            self.counters.record_forward(len(rows) // OBSERVATION_BYTES, clock() - started)
            yield found


def load_engine(path: Path, engine: str, content: bytes | None = None) -> Engine:
    """The engine that serves a model file: "torchscript", "native" or "auto".

    Args:
        content: of the file, if it was read already.

    Raises:
        BadPolicy: the file can't be served, or not by this engine. The text says why.
    """
    return make_engine(load_policy(path, content), engine)


def load(path: Path | str = BUNDLED_MODEL, engine: str = "torchscript") -> Predictor:
    """Load a model file for use from Python.

    It is checked in this thread alone. PyTorch's number of threads stays the caller's.

    Args:
        path: a TorchScript file, float32[n, 4] -> (logits float32[n, 2], value float32[n, 1]); by
            default the one that comes with the package.
        engine: "torchscript", "native" (compiled for this machine; needs cartpole[native]) or
            "auto" (native where it can be had).

    Raises:
        BadPolicy: the file can't be served, or not by this engine. The text says why.
    """
    with one_thread():  # the caller may fork
        return Predictor(load_engine(Path(path), engine))


def checked(row: Sequence[float], number: int | None = None) -> Observation:
    """The row as an observation.

    Args:
        number: of the row among others, for the error.

    Raises:
        ValueError: it has not four values, or one that is not finite as float32.
    """
    where = "" if number is None else f"row {number}: "
    try:
        position, velocity, angle, angular_velocity = map(float, row)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}expected {OBSERVATIONS} numbers, found {row!r}") from error
    observation = position, velocity, angle, angular_velocity
    if not all(-FLOAT32_OVERFLOW < value < FLOAT32_OVERFLOW for value in observation):
        raise ValueError(f"{where}expected values finite as float32, found {observation}")
    return observation
