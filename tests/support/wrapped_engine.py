"""An engine whose forwards are counted, and fail when a test says so."""

from collections.abc import Sequence

from cartpole.policy.contract import Engine, Logits, Observation, Packed


class WrappedEngine:
    """Passes calls on to another engine.

    Attributes:
        sizes: the size of each batch so far, packed or not.
        values: how many of the value head's forwards there were.
        error: raised in place of every forward while it is set.
    """

    def __init__(self, engine: Engine) -> None:
        self.name, self.policy = engine.name, engine.policy
        self.sizes: list[int] = []
        self.values = 0
        self.error: Exception | None = None
        self._engine = engine
        self.packed_values: Packed = self._packed_values

    def one(
        self, position: float, velocity: float, angle: float, angular_velocity: float, /
    ) -> Logits:
        if self.error:
            raise self.error
        return self._engine.one(position, velocity, angle, angular_velocity)

    def batch(self, observations: Sequence[Observation], /) -> list[Logits]:
        self.sizes.append(len(observations))
        if self.error:
            raise self.error
        return self._engine.batch(observations)

    def packed(self, observations: memoryview, /) -> bytes:
        self.sizes.append(len(observations) // 16)
        if self.error:
            raise self.error
        return self._engine.packed(observations)

    def _packed_values(self, observations: memoryview, /) -> bytes:
        self.values += 1
        if self.error:
            raise self.error
        return self._engine.packed_values(observations)
