"""Reads the weights of a Stable-Baselines3 zip without running any code from it."""

import hashlib
import io
import json
import lzma
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import ACTIONS, Outputs
from tools.networks import (
    ACTOR_CRITICS,
    Q_NETWORKS,
    BadAgent,
    Layer,
    read_networks,
    recognize,
)

__all__ = ["Agent", "BadAgent", "Layer", "read_agent"]

LARGEST_MEMBER = 256 * 2**20


@dataclass(frozen=True)
class Agent:
    """An agent whose networks are multilayer perceptrons.

    Attributes:
        policy, value: layers of each network from input to output, each a pair of
            weight float32[outputs, inputs] and bias float32[outputs]. The policy's are those of the
            Q-network, if it has one. Only actor-critics have layers for the value.
        activation: "tanh" or "relu", applied between the layers.
        algorithm: one of tools.networks.ALGORITHMS.
        written_by: the version of Stable-Baselines3 that wrote the zip.
        sha256: digest of the zip.
    """

    policy: list[Layer]
    value: list[Layer]
    activation: str
    algorithm: str
    written_by: str
    sha256: str

    @property
    def outputs(self) -> Outputs:
        """The kind of numbers that the policy's network gives for the two actions."""
        return "q_values" if self.algorithm in Q_NETWORKS else "logits"


def read_agent(path: Path, algorithm: str | None = None) -> Agent:
    """Read an agent that Stable-Baselines3 or sb3-contrib saved, of any version.

    Without `algorithm`, one of tools.networks.ALGORITHMS, it is told by the weights.

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
                version = _version(_member(archive, "_stable_baselines3_version"))
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
        algorithm = algorithm or recognize(weights, data)
        policy, value = read_networks(weights, algorithm)
        _check_actions(data)
        activation = _activation(data, algorithm)
        sha256 = hashlib.sha256(content).hexdigest()
        return Agent(policy, value, activation, algorithm, version, sha256)
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


def _version(content: bytes) -> str:
    text = content.decode("ascii").strip()
    if len(text) > 100 or not text.isprintable():
        raise ValueError("_stable_baselines3_version is no version")
    return text


def _load_weights(content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises almost any exception for junk
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:160]
        raise ValueError(f"policy.pth: {reason}") from error


def _is_state(weights: Any) -> bool:
    """Whether these are plain tensors by name, none larger than what the file holds of it."""
    return isinstance(weights, dict) and all(
        isinstance(name, str)
        and isinstance(tensor, Tensor)
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
        for name, tensor in weights.items()
    )


def _check_actions(data: dict[str, Any]) -> None:
    """Reject other action spaces, whose networks can have the same shapes.

    gymnasium's Discrete has its size as `n` beside its pickle; a Box has none.
    """
    space = data.get("action_space")
    if isinstance(space, dict):
        kind = _class_name(space.get(":type:", "Discrete"))
        number = str(space.get("n", ACTIONS))
        if kind != "Discrete" or number != str(ACTIONS):
            found = f"{kind}({number})" if kind == "Discrete" else kind
            raise BadAgent(f"found action space {found[:100]!a}, expected Discrete({ACTIONS})")


def _activation(data: dict[str, Any], algorithm: str) -> str:
    found = data.get("policy_kwargs")
    arguments = found if isinstance(found, dict) else {}
    extractor = _class_name(arguments.get("features_extractor_class", "FlattenExtractor"))
    if extractor != "FlattenExtractor":
        raise BadAgent(f"found features extractor {extractor}, expected FlattenExtractor")
    default = "Tanh" if algorithm in ACTOR_CRITICS else "ReLU"
    name = _class_name(arguments.get("activation_fn", default))
    if name.lower() not in ("tanh", "relu"):
        raise BadAgent(f"found activation {name}, expected Tanh or ReLU")
    return name.lower()


def _class_name(value: Any) -> str:
    """The name of a class, of which JSON holds the repr: <class 'torch.nn...activation.ReLU'>."""
    name = str(value).removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
    return name if name.isidentifier() else ascii(name)[:100]
