"""A model file to a checked policy: load the TorchScript, check its contract, read its metadata.

Nothing outside this module, perceptron.py, runner.py and tools/export_model.py touches TorchScript.
"""

import hashlib
import io
import json
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

OBSERVATIONS, ACTIONS = 4, 2
METADATA = "metadata.json"

# TorchScript's Python API is deprecated; it is what the model files of this project are made of.
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is not supported", DeprecationWarning)


class BadPolicy(Exception):
    """The model file can't be served. The text is one line: file, found, expected."""


@dataclass(frozen=True)
class Policy:
    """A model file that has been loaded and checked.

    Attributes:
        path: where it was read from.
        sha256: of the bytes that the weights are from.
        module: as the file has it.
        algorithm: what trained it, as the metadata says; "unknown" for other files.
        metadata: what tools/export_model.py wrote into the file; empty for other files.
    """

    path: Path
    sha256: str
    module: torch.jit.ScriptModule
    algorithm: str
    metadata: dict[str, Any]

    def forward(self, observations: Tensor) -> Tensor:
        """The module's own answer: float32[n, 4] -> logits float32[n, 2]. It says what is right."""
        logits: Tensor = self.module(observations.clone())[0]  # it may write into what it reads
        return logits


def load(path: Path) -> Policy:
    """Load a TorchScript file and check that it keeps the contract of the models.

    Args:
        path: a file with forward(float32[n, 4]) -> (logits float32[n, 2], value float32[n, 1]).

    Raises:
        BadPolicy: the file is missing, truncated, no TorchScript, of another shape, has weights
            that are not finite, or does not give the golden answer that it carries.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadPolicy(f"model {path}: {error.strerror}") from error
    extra = {METADATA: ""}
    try:
        module = torch.jit.load(io.BytesIO(content), map_location="cpu", _extra_files=extra)
    except Exception as error:  # the reader raises almost anything when fed with junk
        raise BadPolicy(f"model {path}: no TorchScript file ({first_line(error)})") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    _check_contract(path, module)
    _check_weights(path, module)
    try:
        metadata = json.loads(extra[METADATA] or "{}")
        algorithm = _algorithm(metadata)
        policy = Policy(path, hashlib.sha256(content).hexdigest(), module, algorithm, metadata)
        if metadata.get("golden") is not None:
            _check_golden(policy, metadata["golden"])
    except BadPolicy:
        raise
    except Exception as error:  # RecursionError, OverflowError: JSON can say much
        raise BadPolicy(f"model {path}: bad metadata ({first_line(error)})") from error
    return policy


def _check_contract(path: Path, module: torch.jit.ScriptModule) -> None:
    expected = (
        f"expected forward(float32[n, {OBSERVATIONS}]) -> (float32[n, {ACTIONS}], float32[n, 1])"
    )
    for rows in (1, 3):
        try:
            outputs = _first_answer(module, rows)
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


def _first_answer(module: torch.jit.ScriptModule, rows: int) -> Any:
    """Its answer to one of a few observations: it may raise for some, but not for all."""
    for value in (0.1, -0.1, 1.0):
        with suppress(Exception):
            return module(torch.full((rows, OBSERVATIONS), value))
    return module(torch.zeros(rows, OBSERVATIONS))


def _check_weights(path: Path, module: torch.jit.ScriptModule) -> None:
    graph: Any = module.inlined_graph
    constants = graph.findAllNodes("prim::Constant")  # a frozen file's weights are among them
    found = [node.output().toIValue() for node in constants]
    for tensor in (*module.parameters(), *module.buffers(), *found):
        match tensor:
            case Tensor(dtype=torch.float32, layout=torch.strided) if not tensor.isfinite().all():
                raise BadPolicy(f"model {path}: found weights that are not finite")
    logits = _first_answer(module, 1)[0]
    if logits.isnan().any():  # wherever else it keeps what is no number
        raise BadPolicy(f"model {path}: it answers {logits[0].tolist()}, expected numbers")


def _algorithm(metadata: dict[str, Any]) -> str:
    algorithm = metadata.get("algorithm", "unknown")
    if not (isinstance(algorithm, str) and len(algorithm) <= 100 and algorithm.isprintable()):
        raise ValueError(f"found algorithm {ascii(algorithm)[:100]}, expected a short text")
    return algorithm


def _check_golden(policy: Policy, golden: dict[str, list[float]]) -> None:
    observation, expected = torch.tensor(golden["observation"]), torch.tensor(golden["logits"])
    if observation.shape != (OBSERVATIONS,) or expected.shape != (ACTIONS,):
        raise ValueError(
            f"found a golden answer of shape {list(observation.shape)} -> {list(expected.shape)}, "
            f"expected [{OBSERVATIONS}] -> [{ACTIONS}]"
        )
    found = policy.forward(observation.float().unsqueeze(0))[0]
    if not close(found, expected.float()):
        raise BadPolicy(
            f"model {policy.path}: its golden observation {golden['observation']} gives "
            f"{found.tolist()}, expected {golden['logits']}"
        )


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether logits float32[..., 2] agree within 1e-5 of the largest finite one expected."""
    finite = expected[expected.isfinite()]
    largest = finite.abs().max().item() if len(finite) else 0.0
    return torch.allclose(found, expected, rtol=0, atol=1e-5 * largest, equal_nan=True)


def first_line(error: Exception) -> str:
    """What the error says, in one line of at most 200 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [
        line for line in lines if line.startswith(("RuntimeError", "PytorchStreamReader"))
    ]
    return (informative or lines or [type(error).__name__])[-1 if informative else 0][:200]
