"""An engine against the module's own forward."""

import random

import torch

from cartpole.api.observation import Observation
from cartpole.policy.loading import Policy, close
from cartpole.policy.torchscript import Runner

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


def check(policy: Policy, runner: Runner) -> None:
    batch = observations(300)
    alone = [runner.one(*observation) for observation in batch]
    assert close(torch.tensor(alone), expected(policy, batch))
    for rows in (1, 2, 3, 4, 5, 63, 64, 65, 256, 257, 300):
        assert repr(runner.batch(batch[:rows])) == repr(alone[:rows])  # nan is nan
