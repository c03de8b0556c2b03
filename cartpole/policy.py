"""A model file to a checked policy: load the TorchScript, check its contract, read its metadata.

Nothing outside this module, runner.py and tools/export_model.py touches TorchScript.
"""

import hashlib
import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

OBSERVATIONS, ACTIONS = 4, 2
METADATA = "metadata.json"

# TorchScript's Python API is deprecated; it is what the model files of this project are made of.
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", r"`torch\.jit\.\w+` is not supported", DeprecationWarning)


class BadPolicy(Exception):
    """The model file can't be served. The text is one line: file, found, expected."""


class NotPerceptron(Exception):
    """The policy is not a plain multilayer perceptron. The text names the operator that was met."""


@dataclass(frozen=True)
class Perceptron:
    """The policy network as plain matrices.

    Attributes:
        weights: one float32[inputs, outputs] per layer, so that a layer is x @ weight + bias.
        biases: one float32[outputs] per layer.
        activation: "tanh" or "relu", between the layers; none follows the last one.
    """

    weights: tuple[Tensor, ...]
    biases: tuple[Tensor, ...]
    activation: str


@dataclass(frozen=True)
class Policy:
    """A model file that has been loaded and checked.

    Attributes:
        path: where it was read from.
        sha256: of the file's bytes.
        forward: float32[n, 4] -> logits float32[n, 2]; the module's own forward without its value
            head. It judges what is right.
        metadata: what tools/export_model.py wrote into the file; empty for other files.
    """

    path: Path
    sha256: str
    forward: torch.jit.ScriptModule
    metadata: dict[str, Any]

    @property
    def algorithm(self) -> str:
        return str(self.metadata.get("algorithm", "unknown"))


class _Logits(nn.Module):
    """Asks for the first head only, so that freezing drops whatever computes the other."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, observation: Tensor) -> Tensor:
        logits: Tensor = self.module(observation)[0]
        return logits


def load(path: Path) -> Policy:
    """Load a TorchScript file and check that it keeps the contract of the models.

    Args:
        path: a file with forward(float32[n, 4]) -> (logits float32[n, 2], value float32[n, 1]).

    Raises:
        BadPolicy: the file is missing, truncated, no TorchScript, of another shape, or does not
            give the golden answer that it carries.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BadPolicy(f"model {path}: {error.strerror}") from error
    extra = {METADATA: ""}
    try:
        module = torch.jit.load(path, map_location="cpu", _extra_files=extra)
    except Exception as error:  # the reader raises almost anything when fed with junk
        raise BadPolicy(f"model {path}: no TorchScript file ({_first_line(error)})") from error
    for parameter in module.parameters():
        parameter.requires_grad_(False)
    _check_contract(path, module)
    forward = torch.jit.freeze(torch.jit.script(_Logits(module).eval()))
    try:
        metadata = json.loads(extra[METADATA] or "{}")
        policy = Policy(path, hashlib.sha256(content).hexdigest(), forward, dict(metadata))
        golden = metadata.get("golden")
        if golden is not None:
            _check_golden(policy, golden["observation"], golden["logits"])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BadPolicy(f"model {path}: bad metadata ({_first_line(error)})") from error
    return policy


def _check_contract(path: Path, module: torch.jit.ScriptModule) -> None:
    expected = (
        f"expected forward(float32[n, {OBSERVATIONS}]) -> (float32[n, {ACTIONS}], float32[n, 1])"
    )
    for rows in (1, 3):
        try:
            outputs = module(torch.zeros(rows, OBSERVATIONS))
        except (RuntimeError, torch.jit.Error) as error:
            raise BadPolicy(
                f"model {path}: forward fails ({_first_line(error)}); {expected}"
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


def _check_golden(policy: Policy, observation: list[float], expected: list[float]) -> None:
    found = policy.forward(torch.tensor([observation], dtype=torch.float32))[0]
    if not close(found, torch.tensor(expected, dtype=torch.float32)):
        raise BadPolicy(
            f"model {policy.path}: its golden observation {observation} gives {found.tolist()}, "
            f"expected {expected}"
        )


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether logits float32[..., 2] agree within 1e-5 of the largest finite one expected."""
    finite = expected[expected.isfinite()]
    largest = finite.abs().max().item() if len(finite) else 0.0
    return torch.allclose(found, expected, rtol=0, atol=1e-5 * largest, equal_nan=True)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    informative = [
        line for line in lines if line.startswith(("RuntimeError", "PytorchStreamReader"))
    ]
    return (informative or lines or [type(error).__name__])[-1 if informative else 0][:200]


def perceptron(policy: Policy) -> Perceptron:
    """Read the weights out of the policy's graph, walking from the logits back to the observation.

    Raises:
        NotPerceptron: an operator other than linear layers with tanh or ReLU between them.
    """
    graph = policy.forward.graph
    observation = list(graph.inputs())[1]
    value = next(iter(graph.outputs()))
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    activations: set[str] = set()
    while True:
        value, weight, bias = _linear(value)
        weights.insert(0, weight)
        biases.insert(0, bias)
        if value == observation:
            break
        operator = value.node().kind()
        if operator.removesuffix("_") not in ("aten::tanh", "aten::relu"):
            raise NotPerceptron(operator)
        activations.add(operator.removesuffix("_").removeprefix("aten::"))
        value = value.node().inputsAt(0)
    if len(activations) > 1:
        raise NotPerceptron("aten::relu and aten::tanh")
    return Perceptron(tuple(weights), tuple(biases), activations.pop() if activations else "tanh")


def _linear(value: Any) -> tuple[Any, Tensor, Tensor]:
    """One linear layer that ends in this value: what it reads, its weight [in, out] and bias."""
    node = value.node()
    inputs = list(node.inputs())
    match node.kind():
        case "aten::linear":
            weight, bias = _constant(inputs[1]).t(), _constant(inputs[2])
            return inputs[0], weight, torch.zeros(weight.shape[1]) if bias is None else bias
        case "aten::addmm" if _constant(inputs[3]) == _constant(inputs[4]) == 1:
            return inputs[1], _constant(inputs[2]), _constant(inputs[0])
        case "aten::add" if _constant(inputs[2]) == 1:
            product = list(inputs[0].node().inputs())
            if inputs[0].node().kind() in ("aten::matmul", "aten::mm"):
                return product[0], _constant(product[1]), _constant(inputs[1])
    raise NotPerceptron(node.kind())


def _constant(value: Any) -> Any:
    node = value.node()
    if node.kind() != "prim::Constant":
        raise NotPerceptron(node.kind())
    return value.toIValue()
