"""Stable-Baselines3 zips: untrained agents, or the shipped zip with changed members."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO

from tools.export_model import MODELS

SHIPPED = MODELS / "CartPole-v1.zip"


def sb3(path: Path, algorithm: Any = PPO, environment: str = "CartPole-v1", **options: Any) -> Path:
    policy = options.pop("policy", "MlpPolicy")
    algorithm(policy, environment, seed=1, device="cpu", **options).save(path)
    return path


def rewrite(
    target: Path, change: Callable[[dict[str, bytes]], object], source: Path = SHIPPED
) -> Path:
    """Write a zip, by default the shipped one, with changed members."""
    with zipfile.ZipFile(source) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def change_weights(
    target: Path,
    change: Callable[[dict[str, torch.Tensor]], object],
    source: Path = SHIPPED,
    **how: Any,
) -> Path:
    """Write a zip with changed weights; `how` goes to torch.save."""

    def rewrite_weights(members: dict[str, bytes]) -> None:
        weights = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
        change(weights)
        buffer = io.BytesIO()
        torch.save(weights, buffer, **how)
        members["policy.pth"] = buffer.getvalue()

    return rewrite(target, rewrite_weights, source)
