"""An agent as a PyTorch module: float32[n, 4] -> (outputs float32[n, 2], value float32[n, 1])."""

import torch
from torch import Tensor, nn

from cartpole.policy.normalization import Normalization
from tools.agent import Agent, Layer

Heads = tuple[Tensor, Tensor]


def build_module(agent: Agent, normalization: Normalization | None = None) -> nn.Module:
    """The module that an agent is exported as."""
    policy = _sequential(agent.policy, agent.activation)
    module: nn.Module
    if agent.value:
        module = ActorCritic(policy, _sequential(agent.value, agent.activation))
    else:
        module = QNetwork(policy) if agent.outputs == "q_values" else PolicyOnly(policy)
    if normalization is not None:
        module = Normalized(normalization, module)
    return module.eval().requires_grad_(False)


class ActorCritic(nn.Module):
    """Logits, and the value that the critic expects."""

    def __init__(self, policy: nn.Module, value: nn.Module) -> None:
        super().__init__()
        self.policy, self.value = policy, value

    def forward(self, observation: Tensor) -> Heads:
        return self.policy(observation), self.value(observation)


class QNetwork(nn.Module):
    """Q-values, and as the value their maximum, which the greedy action is expected to bring."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Heads:
        q_values = self.policy(observation)
        return q_values, q_values.amax(1, keepdim=True)


class PolicyOnly(nn.Module):
    """Logits, and 0 as the value."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observation: Tensor) -> Heads:
        logits = self.policy(observation)
        return logits, torch.zeros_like(logits[:, :1])


class Normalized(nn.Module):
    """A module that reads normalised observations.

    The engines know these operators: cartpole/policy/normalization.py.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, normalization: Normalization, module: nn.Module) -> None:
        super().__init__()
        self.register_buffer("mean", normalization.mean)
        self.register_buffer("deviation", normalization.deviation)
        self.clip, self.module = normalization.clip, module

    def forward(self, observation: Tensor) -> Heads:
        wide = (observation - self.mean) / self.deviation
        outputs: Heads = self.module(wide.clamp(-self.clip, self.clip).float())
        return outputs


def _sequential(layers: list[Layer], activation: str) -> nn.Sequential:
    modules: list[nn.Module] = []
    for weight, bias in layers:
        linear = nn.Linear(weight.shape[1], weight.shape[0])
        linear.load_state_dict({"weight": weight, "bias": bias})
        modules += [linear, nn.Tanh() if activation == "tanh" else nn.ReLU()]
    return nn.Sequential(*modules[:-1])
