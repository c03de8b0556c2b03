"""The networks of a Stable-Baselines3 agent, told by the names and shapes of its weights."""

import re
from typing import Any

import torch
from torch import Tensor

from cartpole.policy.contract import ACTIONS, OBSERVATIONS

Layer = tuple[Tensor, Tensor]

ACTOR_CRITICS = ("PPO", "A2C", "TRPO")
Q_NETWORKS = ("DQN", "QR-DQN")
ALGORITHMS = (*ACTOR_CRITICS, *Q_NETWORKS, "ARS")


class BadAgent(Exception):
    """The agent can't be exported. The message is one line: found and expected content."""


def recognize(weights: dict[str, Tensor], data: dict[str, Any]) -> str:
    """Tell the algorithm, which no zip names: one of ALGORITHMS.

    Actor-critics have the same weights; they differ in a hyperparameter of their own.

    Raises:
        BadAgent: they are the weights of another algorithm.
    """
    parts = {name.partition(".")[0] for name in weights}
    if not parts & {"q_net", "quantile_net", "action_net"}:
        found = f"weights {next(iter(weights))[:100]!a}" if weights else "no weights"
        raise BadAgent(f"found {found}, expected those of {', '.join(ALGORITHMS)}")
    if "q_net" in parts:
        return "DQN"
    if "quantile_net" in parts:
        return "QR-DQN"
    if "action_net" in parts and not parts & {"mlp_extractor", "value_net"}:
        return "ARS"
    if "clip_range" in data:
        return "PPO"
    return "TRPO" if "cg_max_steps" in data else "A2C"


def read_networks(weights: dict[str, Tensor], algorithm: str) -> tuple[list[Layer], list[Layer]]:
    """Read the network of the outputs and that of the value, as versions from 1.0 on save them.

    Returns:
        Layers of each from input to output, each a pair of weight float32[outputs, inputs] and bias
        float32[outputs]. The second is empty except for actor-critics. A DQN's target network is
        left out, and a QR-DQN's last layer is the mean over the quantiles.

    Raises:
        BadAgent: they are not the weights of that algorithm, or not for CartPole-v1.
    """
    for name in weights:
        if not re.fullmatch(_NAMES.get(algorithm, _ACTOR_CRITIC_NAMES), name):
            raise BadAgent(
                f"found weights {name[:100]!a}, expected those of {_expected(algorithm)}"
            )
    value: list[Layer] = []
    if algorithm == "DQN":
        policy = _stack(weights, "q_net.q_net")
    elif algorithm == "QR-DQN":
        policy = _mean_over_quantiles(_stack(weights, "quantile_net.quantile_net"))
    elif algorithm == "ARS":  # up to 1.6 a linear policy was one layer outside a Sequential
        weights, alone = _with_biases(weights), "action_net.weight" in weights
        policy = [_layer(weights, "action_net")] if alone else _stack(weights, "action_net")
    else:
        shared = _stack(weights, "mlp_extractor.shared_net")  # up to 1.7
        policy = [*shared, *_stack(weights, "mlp_extractor.policy_net")]
        value = [*shared, *_stack(weights, "mlp_extractor.value_net")]
        policy.append(_layer(weights, "action_net"))
        value.append(_layer(weights, "value_net"))
        _check_shapes("value", value, 1)
    _check_shapes("policy", policy, ACTIONS)
    return policy, value


_INDEX, _KIND = r"\.[0-9]{1,4}", r"\.(?:weight|bias)"
_ACTOR_CRITIC_NAMES = (
    rf"(?:mlp_extractor\.(?:shared|policy|value)_net{_INDEX}|action_net|value_net){_KIND}"
)
_NAMES = {
    "DQN": rf"q_net(?:_target)?\.q_net{_INDEX}{_KIND}",
    "QR-DQN": rf"quantile_net(?:_target)?\.quantile_net{_INDEX}{_KIND}",
    "ARS": rf"action_net(?:{_INDEX})?{_KIND}",
}


def _expected(algorithm: str) -> str:
    named = algorithm if algorithm in _NAMES else ", ".join(ACTOR_CRITICS)
    return f"an MlpPolicy of {named}"


def _stack(weights: dict[str, Tensor], prefix: str) -> list[Layer]:
    found = (re.fullmatch(re.escape(prefix) + r"\.([0-9]{1,4})\.\w+", name) for name in weights)
    indices = sorted({int(match[1]) for match in found if match})
    # An nn.Sequential of linear layers and activations in turn: 0, 2, 4, …
    expected = list(range(0, 2 * len(indices), 2))
    if indices != expected:
        raise BadAgent(f"found layers {indices} in {prefix}, expected {expected}")
    return [_layer(weights, f"{prefix}.{index}") for index in indices]


def _layer(weights: dict[str, Tensor], prefix: str) -> Layer:
    try:
        return weights[f"{prefix}.weight"].detach(), weights[f"{prefix}.bias"].detach()
    except KeyError as error:
        raise BadAgent(f"found no weights {error}, expected those of an MlpPolicy") from error


def _with_biases(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same; with biases of 0 for an ARS policy that has none, as its linear one by default."""
    if any(name.endswith(".bias") for name in weights):
        return weights
    zeros = {name: torch.zeros(weight.shape[:1]) for name, weight in weights.items()}
    return weights | {name.replace("weight", "bias"): zero for name, zero in zeros.items()}


def _mean_over_quantiles(layers: list[Layer]) -> list[Layer]:
    """Replace the last layer, whose output [n, quantiles * 2] is read as [n, quantiles, 2]."""
    if not layers:
        return layers
    *hidden, (weight, bias) = layers
    shape = weight.shape
    if len(shape) != 2 or bias.shape != shape[:1] or not weight.numel() or len(bias) % ACTIONS:
        raise BadAgent(
            f"found weight {list(shape)} and bias {list(bias.shape)} in the last layer, "
            f"expected {ACTIONS} rows for each quantile"
        )
    _check_values(weight, bias, "in the last layer")
    weight, bias = weight.double().view(-1, ACTIONS, shape[1]), bias.double().view(-1, ACTIONS)
    return [*hidden, (_mean(weight), _mean(bias))]


def _mean(quantiles: Tensor) -> Tensor:
    """The mean over the first dimension, summed in the same order on every machine."""
    total = torch.zeros_like(quantiles[0])
    for quantile in quantiles:
        total += quantile
    return (total / len(quantiles)).float()


def _check_shapes(name: str, layers: list[Layer], outputs: int) -> None:
    inputs = OBSERVATIONS
    if not layers:
        raise BadAgent(f"found no layers in the {name} network, expected one or more")
    for number, (weight, bias) in enumerate(layers, 1):
        last = number == len(layers)
        rows = outputs if last else len(bias) if bias.dim() == 1 else 0
        where = f"in layer {number} of the {name} network"
        if not rows or weight.shape != (rows, inputs) or bias.shape != (rows,):
            raise BadAgent(
                f"found weight {list(weight.shape)} and bias {list(bias.shape)} {where}, "
                f"expected [{rows or 'n'}, {inputs}] and [{rows or 'n'}]"
            )
        _check_values(weight, bias, where)
        inputs = rows


def _check_values(weight: Tensor, bias: Tensor, where: str) -> None:
    if weight.dtype != torch.float32 or bias.dtype != torch.float32:
        raise BadAgent(f"found {weight.dtype} weights and {bias.dtype} biases, expected float32")
    for tensor in (weight, bias):
        if not tensor.isfinite().all():
            raise BadAgent(f"found weights that are not finite {where}")
