"""gymnasium's CartPole-v1 under a VecNormalize, and its statistics as files."""

import json
from functools import partial
from pathlib import Path

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


def cartpole_statistics(folder: Path) -> tuple[VecNormalize, Path]:
    """An environment after 200 random steps; vecnormalize.pkl and stats.json are in the folder."""
    make = partial(gymnasium.make, "CartPole-v1")
    environment = VecNormalize(DummyVecEnv([make]), clip_obs=2.5)
    environment.seed(3)
    environment.reset()
    chance = np.random.default_rng(3)
    for _ in range(200):
        environment.step(chance.integers(2, size=1))
    environment.save(str(folder / "vecnormalize.pkl"))
    rms = environment.obs_rms
    assert not isinstance(rms, dict)
    numbers = {"mean": rms.mean.tolist(), "variance": rms.var.tolist()}
    numbers |= {"epsilon": environment.epsilon, "clip": environment.clip_obs}
    (folder / "stats.json").write_text(json.dumps(numbers))
    return environment, folder / "stats.json"
