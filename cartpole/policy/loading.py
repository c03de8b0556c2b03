"""Loading a model file and checking its contract, weights, metadata and golden answer."""

import hashlib
import io
import json
import os
import stat
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import ACTIONS, OBSERVATIONS, Outputs, Policy
from cartpole.policy.tolerance import logits_close

__all__ = ["METADATA", "BadPolicy", "Policy", "first_line", "load", "read_file"]

READ_BYTES = 2**20  # of a file at once
METADATA = "metadata.json"  # the name of the metadata among the extra files of a model file

# TorchScript's Python API is deprecated, but the model files are TorchScript.
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is not supported", DeprecationWarning)


class BadPolicy(Exception):
    """The model can't be served. The text is one line that names the file and the reason."""


def read_file(path: Path, what: str = "model") -> bytes:
    """The content of a file.

    Args:
        what: the file is, for the error.

    Raises:
        BadPolicy: it can't be read, or is not a regular file: a FIFO might block for ever.
    """
    try:
        with open(
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise BadPolicy(f"{what} {path}: not a regular file")
            # In parts, since only what has been read shows that a slow disk makes progress.
            return b"".join(iter(partial(file.read, READ_BYTES), b""))
    except OSError as error:
        raise BadPolicy(f"{what} {path}: {error.strerror}") from error


def load(path: Path, content: bytes | None = None) -> Policy:
    """Load and check a model file.

    Args:
        path: a TorchScript file: float32[n, 4] -> (logits float32[n, 2], value float32[n, 1]).
        content: of the file, if it was read already.

    Raises:
        BadPolicy: the file is missing, truncated or not TorchScript; its inputs or outputs have
            other shapes; a weight is not finite; the metadata is malformed; or the golden answer
            in the metadata is not the module's.
    """
    content = read_file(path) if content is None else content
    extra = {METADATA: ""}
    try:
        module = torch.jit.load(io.BytesIO(content), map_location="cpu", _extra_files=extra)
    except Exception as error:  # PyTorch's reader raises almost anything for a malformed file
        raise BadPolicy(f"model {path}: not a TorchScript file ({first_line(error)})") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    _check_contract(path, module)
    _check_weights(path, module)
    try:
        metadata = json.loads(extra[METADATA] or "{}")
        sha256, algorithm = hashlib.sha256(content).hexdigest(), _algorithm(metadata)
        policy = Policy(path, sha256, module, algorithm, metadata, _outputs(metadata))
        if metadata.get("golden") is not None:
            _check_golden(policy, metadata["golden"])
    except BadPolicy:
        raise
    except Exception as error:  # RecursionError and OverflowError too: JSON nests, numbers grow
        raise BadPolicy(f"model {path}: bad metadata ({first_line(error)})") from error
    return policy


def _check_contract(path: Path, module: torch.jit.ScriptModule) -> None:
    expected = (
        f"expected forward(float32[n, {OBSERVATIONS}]) -> (float32[n, {ACTIONS}], float32[n, 1])"
    )
    for rows in (1, 3):
        try:
            outputs = _any_outputs(module, rows)
        except Exception as error:
            raise BadPolicy(
                f"model {path}: forward fails ({first_line(error)}); {expected}"
            ) from error
        heads = outputs if isinstance(outputs, tuple) else (outputs,)
        found = [
            f"{str(head.dtype).removeprefix('torch.')}{list(head.shape)}"
            if isinstance(head, Tensor)
            else type(head).__name__
            for head in heads
        ]
        if found != [f"float32[{rows}, {ACTIONS}]", f"float32[{rows}, 1]"]:
            raise BadPolicy(f"model {path}: found {', '.join(found)} for n={rows}; {expected}")


def _any_outputs(module: torch.jit.ScriptModule, rows: int) -> Any:
    """The outputs for the first of a few observations for which the module does not raise.

    Raises:
        Exception: the module's error, if it raises for all of them.
    """
    for value in (0.1, -0.1, 1.0):
        with suppress(Exception):
            return module(torch.full((rows, OBSERVATIONS), value))
    return module(torch.zeros(rows, OBSERVATIONS))


def _check_weights(path: Path, module: torch.jit.ScriptModule) -> None:
    graph: Any = module.inlined_graph
    # The weights of a frozen module are constants of its graph.
    constants = [node.output().toIValue() for node in graph.findAllNodes("prim::Constant")]
    for tensor in (*module.parameters(), *module.buffers(), *constants):
        match tensor:
            case Tensor(dtype=torch.float32, layout=torch.strided) if not tensor.isfinite().all():
                raise BadPolicy(f"model {path}: found weights that are not finite")
    logits = _any_outputs(module, 1)[0]
    if logits.isnan().any():  # from a NaN in a double, in an attribute, in the code
        raise BadPolicy(f"model {path}: found logits {logits[0].tolist()}, expected numbers")


def _algorithm(metadata: dict[str, Any]) -> str:
    algorithm = metadata.get("algorithm", "unknown")
    if not (isinstance(algorithm, str) and len(algorithm) <= 100 and algorithm.isprintable()):
        raise ValueError(f"found algorithm {ascii(algorithm)[:100]}, expected a short text")
    return algorithm


def _outputs(metadata: dict[str, Any]) -> Outputs:
    return "q_values" if "q_values" in metadata.get("outputs", {}) else "logits"


def _check_golden(policy: Policy, golden: dict[str, list[float]]) -> None:
    answer = golden[policy.outputs]
    observation, expected = torch.tensor(golden["observation"]), torch.tensor(answer)
    if observation.shape != (OBSERVATIONS,) or expected.shape != (ACTIONS,):
        raise ValueError(
            f"found a golden answer of shape {list(observation.shape)} -> {list(expected.shape)}, "
            f"expected [{OBSERVATIONS}] -> [{ACTIONS}]"
        )
    found = policy.forward(observation.float().unsqueeze(0))[0]
    if not logits_close(found, expected.float()):
        raise BadPolicy(
            f"model {policy.path}: its golden observation {golden['observation']} gives "
            f"{found.tolist()}, expected {answer}"
        )


def first_line(error: Exception) -> str:
    """The most informative line of an error's text, at most 200 characters of it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [
        line for line in lines if line.startswith(("RuntimeError", "PytorchStreamReader"))
    ]
    return (informative or lines or [type(error).__name__])[-1 if informative else 0][:200]
