"""Statistics that observations are normalised with, as JSON: those of a VecNormalize."""

import json
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cartpole.policy.contract import OBSERVATIONS
from cartpole.policy.normalization import Normalization
from tools.networks import BadAgent

# This turns a vecnormalize.pkl into JSON. It runs code of the file, so no tool here does it.
CONVERT = (
    "python -c \"import json, pickle, sys; v = pickle.load(open(sys.argv[1], 'rb')); "
    "assert v.norm_obs; print(json.dumps({'mean': v.obs_rms.mean.tolist(), "
    "'variance': v.obs_rms.var.tolist(), 'epsilon': float(v.epsilon), "
    "'clip': float(v.clip_obs)}))\""
)


@dataclass(frozen=True)
class Statistics:
    """clip((observation - mean) / sqrt(variance + epsilon)), as VecNormalize.normalize_obs.

    Attributes:
        mean, variance: of each of the four values of an observation.
        epsilon: added to the variances.
        clip: the largest magnitude of a normalised value.
    """

    mean: list[float]
    variance: list[float]
    epsilon: float
    clip: float

    def normalization(self) -> Normalization:
        mean, variance = (
            torch.tensor(row, dtype=torch.float64) for row in (self.mean, self.variance)
        )
        return Normalization(mean, (variance + self.epsilon).sqrt(), self.clip)


def read_statistics(path: Path) -> Statistics:
    """Read mean, variance, epsilon and clip from a JSON object.

    Raises:
        BadAgent: the file can't be read, is a pickle, or does not hold these numbers.
    """
    try:
        content = path.read_bytes()
        if content[:1] == b"\x80" or path.suffix in (".pkl", ".pickle"):
            command = f"{CONVERT} {shlex.quote(str(path))} > stats.json"
            raise BadAgent(
                f"{path}: a pickle can run code and is not read; on a machine that trusts it, "
                f"this makes the JSON of it: {command}"
            )
        return _statistics(json.loads(content))
    except OSError as error:
        raise BadAgent(f"{path}: {error.strerror or error}") from error
    except RecursionError as error:
        raise BadAgent(f"{path}: found JSON that nests too deeply, {_EXPECTED}") from error
    except ValueError as error:
        raise BadAgent(f"{path}: {error}, {_EXPECTED}") from error


_EXPECTED = (
    f'expected JSON like {{"mean": [{OBSERVATIONS} numbers], "variance": [{OBSERVATIONS} numbers], '
    '"epsilon": 1e-08, "clip": 10.0}'
)


def _statistics(data: Any) -> Statistics:
    if not isinstance(data, dict) or set(data) != {"mean", "variance", "epsilon", "clip"}:
        found = ", ".join(map(ascii, data)) if isinstance(data, dict) else type(data).__name__
        raise ValueError(f"found {found[:100] or 'nothing'}")
    rows = {}
    for name, size in (("mean", OBSERVATIONS), ("variance", OBSERVATIONS)):
        row = data[name]
        if not isinstance(row, list) or len(row) != size:
            raise ValueError(f"found {ascii(row)[:100]} as {name}")
        rows[name] = [_number(name, value) for value in row]
    epsilon, clip = _number("epsilon", data["epsilon"]), _number("clip", data["clip"])
    if clip <= 0 or not all(value >= 0 and value + epsilon > 0 for value in rows["variance"]):
        raise ValueError("found a clip or a variance that is not positive")
    return Statistics(rows["mean"], rows["variance"], epsilon, clip)


def _number(name: str, value: Any) -> float:
    """The value as a float, which JSON may hold as an integer of any size."""
    try:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):
                return number
    except OverflowError:
        pass
    raise ValueError(f"found {ascii(value)[:100]} in {name}")
