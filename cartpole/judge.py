"""Whether an engine gives TorchScript's answers: what may serve only after it has been compared."""

import torch
from torch import Tensor

from cartpole.policy import OBSERVATIONS, BadPolicy, Perceptron, Policy
from cartpole.runner import MAX_BATCH, Runner

CHECKED = 10_000  # observations, at the start
_FLOAT32 = torch.finfo(torch.float32)


def check(runner: Runner, policy: Policy, network: Perceptron) -> None:
    """Hold it against TorchScript within 1e-5 of the largest logit, and alone against together.

    Raises:
        BadPolicy: they differ.
    """
    observations = samples()
    rows = [(row[0], row[1], row[2], row[3]) for row in observations.tolist()]
    alone = [runner.one(*row) for row in rows]
    together = [
        logits
        for at in range(0, CHECKED, MAX_BATCH)
        for logits in runner.batch(rows[at : at + MAX_BATCH])
    ]
    found, expected = torch.tensor(alone), policy.forward(observations)
    same = (found.view(torch.int32) == torch.tensor(together).view(torch.int32)).all(1)
    right = same & agree(found, expected)
    wrong = (_defined(network, observations) & ~right).nonzero()
    if len(wrong):
        number = int(wrong[0])
        raise BadPolicy(
            f"model {policy.path}: compiled, it answers {alone[number]} to {rows[number]}, "
            f"together with others {together[number]}, TorchScript {expected[number].tolist()}"
        )


def agree(found: Tensor, expected: Tensor) -> Tensor:
    """By row: within 1e-5 of the largest logit (or of 1), and in the same order if that tells."""
    tolerance = 1e-5 * expected.abs().amax(1).clamp(min=1)
    near = (found - expected).abs().amax(1) <= tolerance
    lead, expected_lead = found[:, 0] - found[:, 1], expected[:, 0] - expected[:, 1]
    return near & ((lead.sign() == expected_lead.sign()) | (expected_lead.abs() <= tolerance))


def samples() -> Tensor:
    """float32[CHECKED, 4]: usual ones, the bounds of the environment, zeros, every magnitude."""
    generator = torch.Generator().manual_seed(0)

    def uniform(rows: int) -> Tensor:
        return torch.rand(rows, OBSERVATIONS, generator=generator) * 2 - 1

    edges = torch.tensor([0.0, -0.0, 2.4, 4.8, 0.2095, 0.418, _FLOAT32.tiny, _FLOAT32.max, 1e-45])
    edges = torch.cat([edges, -edges])
    chosen = torch.randint(len(edges), (3000, OBSERVATIONS), generator=generator)
    usual = uniform(4000) * torch.tensor([4.8, 5.0, 0.418, 5.0])
    magnitudes = 10 ** (uniform(CHECKED - 7000).double() * 41.5 - 3.5)  # 1e-45 to 1e38
    signs = uniform(CHECKED - 7000).sign()
    return torch.cat([usual, edges[chosen], (magnitudes * signs).float()])


def _defined(network: Perceptron, observations: Tensor) -> Tensor:
    """Which observations stay in the range of float32, in whatever order the sums are taken."""
    size, defined = observations.double().abs(), torch.ones(len(observations), dtype=torch.bool)
    for weight, bias in zip(network.weights, network.biases, strict=True):
        size = size @ weight.double().abs() + bias.double().abs()
        defined &= (size < _FLOAT32.max).all(1)
        if network.activation == "tanh":
            size = size.clamp(max=1)
    return defined
