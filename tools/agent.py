"""Reads the weights of a Stable-Baselines3 zip without running any code from it."""

import hashlib
import io
import json
import lzma
import re
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import ACTIONS, OBSERVATIONS

LARGEST_MEMBER = 256 * 2**20

Layer = tuple[Tensor, Tensor]


class BadAgent(Exception):
    """The zip can't be exported. The message is one line: found and expected content."""


@dataclass(frozen=True)
class Agent:
    """An actor-critic agent with two multilayer perceptrons.

    Attributes:
        policy, value: layers of each network from input to output, each a pair of
            weight float32[outputs, inputs] and bias float32[outputs].
        activation: "tanh" or "relu", applied between the layers.
        algorithm: PPO, TRPO or A2C.
        written_by: the version of Stable-Baselines3 that wrote the zip.
        sha256: digest of the zip.
    """

    policy: list[Layer]
    value: list[Layer]
    activation: str
    algorithm: str
    written_by: str
    sha256: str


def read_agent(path: Path) -> Agent:
    """Read an agent that Stable-Baselines3 saved, of any version.

    torch.load(weights_only=True) reads the weights. Of the member `data` only plain JSON fields
    are read, never the pickles beside them.

    Raises:
        BadAgent: the file is no zip, is damaged, or holds another kind of agent.
    """
    try:
        content = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            data = json.loads(_member(archive, "data"))
            weights = _load_weights(_member(archive, "policy.pth"))
            version = "unknown"
            if "_stable_baselines3_version" in archive.namelist():
                version = _member(archive, "_stable_baselines3_version").decode("ascii").strip()
    except OSError as error:
        raise BadAgent(f"{path}: {error.strerror or error}") from error
    except UNREADABLE_ZIP as error:
        reason = str(error) or type(error).__name__
        raise BadAgent(f"{path}: found no readable zip ({reason}), {_EXPECTED}") from error
    except ValueError as error:
        raise BadAgent(f"{path}: found unreadable contents ({error}), {_EXPECTED}") from error
    if not isinstance(data, dict) or not _is_state(weights):
        raise BadAgent(f"{path}: found another kind of `data` or `policy.pth`, {_EXPECTED}")
    try:
        return Agent(
            **_networks(weights),
            activation=_activation(data),
            algorithm=_algorithm(data),
            written_by=version,
            sha256=hashlib.sha256(content).hexdigest(),
        )
    except BadAgent as error:
        raise BadAgent(f"{path}: {error}") from error


# The exceptions that zipfile raises for damaged input.
UNREADABLE_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,  # of encrypted members and of unknown compression
)

_EXPECTED = "expected an agent saved by Stable-Baselines3"


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if name not in archive.namelist():
        raise ValueError(f"no member {name!r}")
    if archive.getinfo(name).file_size > LARGEST_MEMBER:
        raise ValueError(f"member {name!r} is over {LARGEST_MEMBER >> 20} MiB")
    return archive.read(name)


def _load_weights(content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises almost any exception for junk
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        raise ValueError(f"policy.pth: {reason}") from error


def _is_state(weights: Any) -> bool:
    return isinstance(weights, dict) and all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in weights.items()
    )


def _networks(weights: dict[str, Tensor]) -> dict[str, list[Layer]]:
    foreign = [name for name in weights if not _KNOWN.fullmatch(name)]
    if foreign:
        raise BadAgent(f"found weights {foreign[0]!r}, expected those of an MlpPolicy")
    shared = _stack(weights, "mlp_extractor.shared_net")
    networks = {
        "policy": [*shared, *_stack(weights, "mlp_extractor.policy_net")],
        "value": [*shared, *_stack(weights, "mlp_extractor.value_net")],
    }
    networks["policy"].append(_layer(weights, "action_net"))
    networks["value"].append(_layer(weights, "value_net"))
    for name, outputs in (("policy", ACTIONS), ("value", 1)):
        _check_shapes(name, networks[name], outputs)
    return networks


_KNOWN = re.compile(
    r"(?:mlp_extractor\.(?:shared|policy|value)_net\.\d+|action_net|value_net)\.(?:weight|bias)"
)


def _stack(weights: dict[str, Tensor], prefix: str) -> list[Layer]:
    found = (re.fullmatch(re.escape(prefix) + r"\.(\d+)\.\w+", name) for name in weights)
    indices = sorted({int(match[1]) for match in found if match})
    # An nn.Sequential of linear layers and activations in turn: 0, 2, 4, …
    expected = list(range(0, 2 * len(indices), 2))
    if indices != expected:
        raise BadAgent(f"found layers {indices} in {prefix}, expected {expected}")
    return [_layer(weights, f"{prefix}.{index}") for index in indices]


def _layer(weights: dict[str, Tensor], prefix: str) -> Layer:
    try:
        return weights[f"{prefix}.weight"], weights[f"{prefix}.bias"]
    except KeyError as error:
        raise BadAgent(f"found no weights {error}, expected those of an MlpPolicy") from error


def _check_shapes(name: str, layers: list[Layer], outputs: int) -> None:
    inputs = OBSERVATIONS
    for number, (weight, bias) in enumerate(layers, 1):
        last = number == len(layers)
        rows = outputs if last else len(bias) if bias.dim() == 1 else 0
        if weight.shape != (rows, inputs) or bias.shape != (rows,):
            raise BadAgent(
                f"found weight {list(weight.shape)} and bias {list(bias.shape)} in layer {number} "
                f"of the {name} network, expected [{rows or 'n'}, {inputs}] and [{rows or 'n'}]"
            )
        if weight.dtype != torch.float32 or bias.dtype != torch.float32:
            raise BadAgent(
                f"found {weight.dtype} weights and {bias.dtype} biases, expected float32"
            )
        if not (weight.isfinite().all() and bias.isfinite().all()):
            raise BadAgent(
                f"found weights that are not finite in layer {number} of the {name} network"
            )
        inputs = rows


def _activation(data: dict[str, Any]) -> str:
    arguments = data.get("policy_kwargs")
    name = str(arguments.get("activation_fn", "Tanh") if isinstance(arguments, dict) else "Tanh")
    # JSON holds the class's repr: <class 'torch.nn.modules.activation.ReLU'>
    name = name.removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
    if name.lower() not in ("tanh", "relu"):
        raise BadAgent(f"found activation {name}, expected Tanh or ReLU")
    return name.lower()


def _algorithm(data: dict[str, Any]) -> str:
    """Tell the algorithm by a parameter of its own, because the zip does not name it."""
    if "clip_range" in data:
        return "PPO"
    return "TRPO" if "cg_max_steps" in data else "A2C"
