"""An engine against the module's own forward."""

import random

import torch

from cartpole.policy.contract import MAX_ROWS, Engine, Observation
from cartpole.policy.loading import Policy
from cartpole.policy.tolerance import logits_close

EXTREMES = [0.0, -0.0, 4.8, -4.8, 1e-45, -1e-38, 1e6, -1e6, 1e30, -1e30]


def observations(count: int) -> list[Observation]:
    chance = random.Random(count)
    ordinary = [tuple(chance.gauss(0, 2) for _ in range(4)) for _ in range(count)]
    extreme = [tuple(chance.choice(EXTREMES) for _ in range(4)) for _ in range(count)]
    mixed = [one for pair in zip(ordinary, extreme, strict=True) for one in pair]
    return [(a, b, c, d) for a, b, c, d in mixed[:count]]


def expected(policy: Policy, batch: list[Observation]) -> torch.Tensor:
    logits: torch.Tensor = policy.forward(torch.tensor(batch, dtype=torch.float32))
    return logits


def check(policy: Policy, engine: Engine) -> None:
    batch = observations(300)
    alone = [engine.one(*observation) for observation in batch]
    assert logits_close(torch.tensor(alone), expected(policy, batch))
    for rows in (1, 2, 3, 4, 5, 63, 64, 65, 255, MAX_ROWS):
        for first in (0, len(batch) - rows):
            found = engine.batch(batch[first : first + rows])
            assert repr(found) == repr(alone[first : first + rows])  # NaN is not equal to itself
