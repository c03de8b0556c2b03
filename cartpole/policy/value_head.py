"""The value head of a policy: computed apart from the logits, and only when it is asked for."""

import logging

import torch

from cartpole.policy.buffers import Buffers, memory_of
from cartpole.policy.contract import MAX_ROWS, OBSERVATION_BYTES, Packed, Policy
from cartpole.policy.loading import first_line
from cartpole.policy.perceptron import read_perceptron
from cartpole.policy.tolerance import TOLERANCE
from cartpole.policy.torchscript import bind_alone, bind_together, module_step, trace_step
from cartpole.policy.verify import sample_observations, within_float32

VALUE = 1  # the head's place in what a module returns

logger = logging.getLogger("cartpole")


def make_value_head(policy: Policy) -> Packed:
    """The function from observations float32[n, 4] to values float32[n, 1], both as bytes.

    An observation gets the same bits alone and in any batch. The head is a traced perceptron where
    it can be read as one; else each row is a forward of the module, and a forward that raises
    raises here.
    """
    try:
        return _perceptron_head(policy)
    except Exception as error:  # NotPerceptron, PyTorch's errors about odd weights
        logger.info("model %s: values by its own forward: %s", policy.path, first_line(error))
        step = module_step(policy.module, VALUE)
        return bind_alone(Buffers.allocate(columns=1), step, [])[-1]


def _perceptron_head(policy: Policy) -> Packed:
    """Raises an exception if the head is no perceptron, or its values are not the module's."""
    network = read_perceptron(policy, VALUE)
    step, hidden = trace_step(network)
    packed = bind_together(Buffers.allocate(columns=1), step, hidden)[-1]
    for observations in sample_observations().split(MAX_ROWS):
        expected = policy.module(observations.clone())[VALUE].detach()
        memory = memory_of(observations)[: len(observations) * OBSERVATION_BYTES]
        found = torch.frombuffer(bytearray(packed(memory)), dtype=torch.float32).view(-1, 1)
        near = (found - expected).abs() <= TOLERANCE * expected.abs().clamp(min=1)
        if not (near.all(1) | ~within_float32(network, observations)).all():
            raise RuntimeError("the value head differs from the module's")
    return packed
