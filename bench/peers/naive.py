"""The policy called in the obvious way: one tensor and one list per request."""

import os

import torch

torch.set_num_threads(1)
module = torch.jit.load(os.environ["CARTPOLE_MODEL"])


def infer(
    position: float, velocity: float, angle: float, angular_velocity: float
) -> dict[str, float]:
    with torch.inference_mode():
        logits, _ = module(torch.tensor([[position, velocity, angle, angular_velocity]]))
        left, right = logits.tolist()[0]
    return {"left": left, "right": right}
