"""`make export`: exports a Stable-Baselines3 zip as a TorchScript model.

The model's contract: forward(float32[n, 4]) -> (logits float32[n, 2], value float32[n, 1]), with
Q-values in place of logits for DQN and QR-DQN.
"""

import argparse
import hashlib
import itertools
import json
import os
import sys
import tempfile
import zipfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cartpole.api.observation import NAMES
from cartpole.policy.contract import ACTIONS, OBSERVATIONS
from cartpole.policy.loading import METADATA, BadPolicy, load
from cartpole.policy.normalization import Normalization
from cartpole.policy.perceptron import Perceptron
from cartpole.policy.tolerance import TOLERANCE
from cartpole.policy.verify import within_float32
from tools.agent import Agent, BadAgent, read_agent
from tools.modules import build_module
from tools.networks import ALGORITHMS
from tools.normalization import Statistics, read_statistics

MODELS = Path(__file__).resolve().parent.parent / "models/CartPole-v1"
GOLDEN = [0.0, 0.0, -1.0, 0.0]
ORDINARY = 500  # observations in and around the range of an episode

Matrix = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def export(
    source: Path, output: Path, algorithm: str | None = None, statistics: Path | None = None
) -> dict[str, str]:
    """Write the model; `output` is replaced after the new file has been read back and checked.

    Args:
        source: the zip.
        output: the model file.
        algorithm: one of tools.networks.ALGORITHMS; by default it is told by the weights.
        statistics: JSON that tools.normalization reads; by default nothing is normalised.

    Returns:
        rows of a table that describes the model, by name.

    Raises:
        BadAgent: the zip can't be exported, or the model does not compute what the zip says.
    """
    agent = read_agent(source, algorithm)
    stats = read_statistics(statistics) if statistics else None
    normalization = stats.normalization() if stats else None
    module = build_module(agent, normalization)
    metadata = _metadata(agent, module, stats)
    traced = torch.jit.trace(module, torch.zeros(1, OBSERVATIONS))
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent) as folder:
            draft = Path(folder) / output.name
            extra = {METADATA: json.dumps(metadata, indent=1).encode()}
            torch.jit.save(traced, str(draft), _extra_files=extra)
            _remove_traces_of_the_machine(draft)
            load(draft)
            difference = _largest_difference(draft, agent, normalization)
            os.replace(draft, output)
    except (OSError, BadPolicy) as error:
        raise BadAgent(str(error)) from error
    table = _table(source, agent, metadata)
    table["largest difference"] = f"{difference:.1e} of the largest output, {TOLERANCE:.0e} allowed"
    table["sha256 of the model"] = hashlib.sha256(output.read_bytes()).hexdigest()
    return table | {"model": str(output)}


def _table(source: Path, agent: Agent, metadata: dict[str, Any]) -> dict[str, str]:
    widths = "-".join(str(len(bias)) for _, bias in agent.policy)
    between = agent.activation if len(agent.policy) > 1 else "linear"
    table = {
        "zip": str(source),
        "algorithm": f"{agent.algorithm}, saved by Stable-Baselines3 {agent.written_by}",
        "policy network": f"{OBSERVATIONS}-{widths}, {between}",
        "outputs": agent.outputs,
        "sha256 of the zip": agent.sha256,
        "sha256 of the weights": metadata["weights_sha256"],
        "golden answer": f"{GOLDEN} -> {metadata['golden'][agent.outputs]}",
    }
    if "normalization" in metadata:
        table["normalization"] = json.dumps(metadata["normalization"])
    return table


def _metadata(agent: Agent, module: nn.Module, statistics: Statistics | None) -> dict[str, Any]:
    """The metadata that the model file holds."""
    golden = module(torch.tensor([GOLDEN]))[0][0].tolist()
    normalized = {"normalization": asdict(statistics)} if statistics else {}
    return {
        "algorithm": agent.algorithm,
        "environment": "CartPole-v1",
        "stable_baselines3": agent.written_by,
        "zip_sha256": agent.sha256,
        "weights_sha256": _weights_sha256(agent),
        "inputs": {"observation": list(NAMES)},
        **normalized,
        "outputs": {agent.outputs: ["left", "right"], "value": ["value"]},
        "golden": {"observation": GOLDEN, agent.outputs: golden},
    }


def _weights_sha256(agent: Agent) -> str:
    digest = hashlib.sha256()
    for weight, bias in [*agent.policy, *agent.value]:
        digest.update(weight.contiguous().numpy().tobytes() + bias.numpy().tobytes())
    return digest.hexdigest()


def _remove_traces_of_the_machine(path: Path) -> None:
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
    ordinary = random.normal(size=(ORDINARY, OBSERVATIONS)) * [2.4, 3.0, 0.21, 3.0]
    edges = [0.0, -0.0, 4.8, -4.8, 0.418, -0.418, 1e-45, -1e-38, 1e6, -1e6, 1e30, -1e30]
    mixed = random.choice(edges, size=(492, OBSERVATIONS))
    # Far from zero ReLU networks overflow float32, as they should; tanh saturates.
    most = float(np.finfo(np.float32).max) if activation == "tanh" else 1e30
    extreme = [sign * most * row for sign, row in itertools.product((1, -1), np.eye(OBSERVATIONS))]
    return np.concatenate([ordinary, mixed, extreme]).astype(np.float32).astype(np.float64)


def reference_logits(
    agent: Agent, inputs: Matrix, normalization: Normalization | None = None
) -> Matrix:
    """The policy in numpy and float64: float64[n, 4] -> float64[n, 2].

    Normalised observations are rounded to float32, as VecNormalize does.
    """
    values = inputs
    if normalization:
        mean, deviation = normalization.mean.numpy(), normalization.deviation.numpy()
        values = np.clip((values - mean) / deviation, -normalization.clip, normalization.clip)
        values = values.astype(np.float32).astype(np.float64)
    for number, (weight, bias) in enumerate(agent.policy, 1):
        values = values @ weight.double().numpy().T + bias.double().numpy()
        if number < len(agent.policy):
            values = np.tanh(values) if agent.activation == "tanh" else np.maximum(values, 0)
    return values


def _largest_difference(path: Path, agent: Agent, normalization: Normalization | None) -> float:
    """The largest difference between file and reference, relative to the largest output.

    The largest output is that of the row or, if greater, that of the ordinary observations. Rows
    for which float32 may overflow are left out.

    Raises:
        BadAgent: the difference is over the tolerance.
    """
    inputs = observations(agent.activation)
    expected = reference_logits(agent, inputs, normalization)
    rows = torch.from_numpy(inputs).float()
    within = within_float32(_perceptron(agent, normalization), rows).numpy()
    if not within[:ORDINARY].all():
        raise BadAgent("found weights so large that ordinary observations overflow float32")
    logits = torch.jit.load(path)(rows)[0].numpy()
    scale = np.maximum(np.abs(expected).max(axis=1), np.abs(expected[:ORDINARY]).max())
    scale = np.maximum(scale, np.finfo(np.float32).tiny)  # of an ARS policy that is still zero
    difference = float((np.abs(logits - expected).max(axis=1) / scale)[within].max())
    if not (logits.shape[1] == ACTIONS and difference <= TOLERANCE):
        raise BadAgent(
            f"the model differs from the zip: found {difference:.1e} of the largest output, "
            f"expected at most {TOLERANCE:.0e}"
        )
    return difference


def _perceptron(agent: Agent, normalization: Normalization | None) -> Perceptron:
    weights, biases = zip(*agent.policy, strict=True)
    transposed = tuple(weight.t() for weight in weights)
    return Perceptron(transposed, biases, agent.activation, normalization)


def _algorithm(text: str) -> str:
    """The algorithm of this name, in capitals or not, with or without a hyphen."""
    names = {name.replace("-", ""): name for name in ALGORITHMS}
    try:
        return names[text.upper().replace("-", "")]
    except KeyError as error:
        message = f"found {text!a}, expected one of {', '.join(ALGORITHMS)}"
        raise argparse.ArgumentTypeError(message) from error


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Export a Stable-Baselines3 zip as TorchScript.")
    parser.add_argument("zip", type=Path, nargs="?", default=MODELS / "CartPole-v1.zip")
    parser.add_argument("--output", type=Path, default=MODELS / "model_traced.pt", metavar="FILE")
    parser.add_argument(
        "--algo",
        type=_algorithm,
        metavar="NAME",
        help=f"one of {', '.join(ALGORITHMS)}; by default told by the weights",
    )
    parser.add_argument(
        "--normalize",
        type=Path,
        metavar="STATS.json",
        help="normalise observations: mean, variance, epsilon and clip of a VecNormalize",
    )
    arguments = parser.parse_args(argv)
    try:
        rows = export(arguments.zip, arguments.output, arguments.algo, arguments.normalize)
    except BadAgent as error:
        print(f"export: {error}", file=sys.stderr)
        return 1
    for name, value in rows.items():
        print(f"{name:22} {value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
