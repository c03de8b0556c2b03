"""`make export`: exports a Stable-Baselines3 zip as a TorchScript model.

The model's contract: forward(float32[n, 4]) -> (logits float32[n, 2], value float32[n, 1]).
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cartpole.api.observation import NAMES
from cartpole.policy.contract import ACTIONS, OBSERVATIONS
from cartpole.policy.loading import METADATA, BadPolicy, load
from cartpole.policy.tolerance import TOLERANCE
from tools.agent import Agent, BadAgent, Layer, read_agent

MODELS = Path(__file__).resolve().parent.parent / "models/CartPole-v1"
GOLDEN = [0.0, 0.0, -1.0, 0.0]

Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


class ActorCritic(nn.Module):
    """float32[n, 4] -> (logits float32[n, 2], value float32[n, 1])."""

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        self.policy = _sequential(agent.policy, agent.activation)
        self.value = _sequential(agent.value, agent.activation)

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        return self.policy(observation), self.value(observation)


def _sequential(layers: list[Layer], activation: str) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, nn.Tanh() if activation == "tanh" else nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def export(source: Path, output: Path) -> dict[str, str]:
    """Write the model; `output` is replaced after the new file has been read back and checked.

    Returns:
        rows of a table that describes the model, by name.

    Raises:
        BadAgent: the zip can't be exported, or the model does not compute what the zip says.
    """
    agent = read_agent(source)
    module = ActorCritic(agent).eval().requires_grad_(False)
    metadata = _metadata(agent, module)
    traced = torch.jit.trace(module, torch.zeros(1, OBSERVATIONS))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            draft = Path(folder) / output.name
            extra = {METADATA: json.dumps(metadata, indent=1).encode()}
            torch.jit.save(traced, str(draft), _extra_files=extra)
            _normalize(draft)
            load(draft)
            difference = _largest_difference(draft, agent)
            os.replace(draft, output)
    except (OSError, BadPolicy) as error:
        raise BadAgent(str(error)) from error
    widths = "-".join(str(len(bias)) for _, bias in agent.policy)
    return {
        "zip": str(source),
        "algorithm": f"{agent.algorithm}, saved by Stable-Baselines3 {agent.written_by}",
        "policy network": f"{OBSERVATIONS}-{widths}, {agent.activation}",
        "sha256 of the zip": agent.sha256,
        "sha256 of the weights": metadata["weights_sha256"],
        "golden answer": f"{GOLDEN} -> {metadata['golden']['logits']}",
        "largest difference": f"{difference:.1e} of the largest logit, {TOLERANCE:.0e} allowed",
        "sha256 of the model": hashlib.sha256(output.read_bytes()).hexdigest(),
        "model": str(output),
    }


def _metadata(agent: Agent, module: ActorCritic) -> dict[str, Any]:
    """The metadata that the model file holds."""
    golden = module(torch.tensor([GOLDEN]))[0][0].tolist()
    return {
        "algorithm": agent.algorithm,
        "environment": "CartPole-v1",
        "stable_baselines3": agent.written_by,
        "zip_sha256": agent.sha256,
        "weights_sha256": _weights_sha256(agent),
        "inputs": {"observation": list(NAMES)},
        "outputs": {"logits": ["left", "right"], "value": ["value"]},
        "golden": {"observation": GOLDEN, "logits": golden},
    }


def _weights_sha256(agent: Agent) -> str:
    digest = hashlib.sha256()
    for weight, bias in [*agent.policy, *agent.value]:
        digest.update(weight.contiguous().numpy().tobytes() + bias.numpy().tobytes())
    return digest.hexdigest()


def _normalize(path: Path) -> None:
    """Rewrite the archive without debug paths and times, which differ between machines."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    root = next(iter(members)).partition("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in sorted(members.items()):
            if not name.endswith((".debug_pkl", "/.data/serialization_id")):
                archive.writestr(zipfile.ZipInfo(name.replace(root, "model", 1)), content)


def observations(activation: str) -> Matrix:
    """A thousand float32 observations [1000, 4]: random ones, bounds, denormals, extremes."""
    random = np.random.default_rng(0)
    ordinary = random.normal(size=(500, OBSERVATIONS)) * [2.4, 3.0, 0.21, 3.0]
    edges = [0.0, -0.0, 4.8, -4.8, 0.418, -0.418, 1e-45, -1e-38, 1e6, -1e6, 1e30, -1e30]
    mixed = random.choice(edges, size=(492, OBSERVATIONS))
    # Far from zero ReLU networks overflow float32, as they should; tanh saturates.
    most = float(np.finfo(np.float32).max) if activation == "tanh" else 1e30
    extreme = [sign * most * row for sign, row in itertools.product((1, -1), np.eye(OBSERVATIONS))]
    return np.concatenate([ordinary, mixed, extreme]).astype(np.float32).astype(np.float64)


def reference_logits(agent: Agent, inputs: Matrix) -> Matrix:
    """The policy in numpy and float64: float64[n, 4] -> float64[n, 2]."""
    values = inputs
    for number, (weight, bias) in enumerate(agent.policy, 1):
        values = values @ weight.double().numpy().T + bias.double().numpy()
        if number < len(agent.policy):
            values = np.tanh(values) if agent.activation == "tanh" else np.maximum(values, 0)
    return values


def _largest_difference(path: Path, agent: Agent) -> float:
    """The largest difference between file and reference, relative to the largest logit.

    The largest logit is that of the row or, if greater, that of the ordinary observations.

    Raises:
        BadAgent: the difference is over the tolerance.
    """
    inputs = observations(agent.activation)
    expected = reference_logits(agent, inputs)
    logits = torch.jit.load(path)(torch.from_numpy(inputs).float())[0].numpy()
    scale = np.maximum(np.abs(expected).max(axis=1), np.abs(expected[:500]).max())
    difference = float((np.abs(logits - expected).max(axis=1) / scale).max())
    if not (logits.shape[1] == ACTIONS and difference <= TOLERANCE):
        raise BadAgent(
            f"the model differs from the zip: found {difference:.1e} of the largest logit, "
            f"expected at most {TOLERANCE:.0e}"
        )
    return difference


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Export a Stable-Baselines3 zip as TorchScript.")
    parser.add_argument("zip", type=Path, nargs="?", default=MODELS / "CartPole-v1.zip")
    parser.add_argument("--output", type=Path, default=MODELS / "model_traced.pt", metavar="FILE")
    arguments = parser.parse_args(argv)
    try:
        rows = export(arguments.zip, arguments.output)
    except BadAgent as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    for name, value in rows.items():
        print(f"{name:22} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
