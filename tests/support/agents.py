"""Stable-Baselines3 zips: untrained agents, or the shipped zip with changed members."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from stable_baselines3 import PPO

from tools.export_model import MODELS

SHIPPED = MODELS / "CartPole-v1.zip"


def sb3(path: Path, algorithm: Any = PPO, environment: str = "CartPole-v1", **options: Any) -> Path:
    algorithm("MlpPolicy", environment, seed=1, device="cpu", **options).save(path)
    return path


def rewrite(target: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Write the shipped zip with changed members."""
    with zipfile.ZipFile(SHIPPED) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return target


def change_weights(target: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    import io

    def rewrite_weights(members: dict[str, bytes]) -> None:
        weights = torch.load(io.BytesIO(members["policy.pth"]), weights_only=True)
        change(weights)
        buffer = io.BytesIO()
        torch.save(weights, buffer)
        members["policy.pth"] = buffer.getvalue()

    return rewrite(target, rewrite_weights)
