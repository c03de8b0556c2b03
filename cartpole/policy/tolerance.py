"""How close two sets of logits must be to count as equal."""

import torch
from torch import Tensor

# Relative to the largest logit: float32 rounds to 6e-8, and the order of a sum adds a few times
# that; a wrong weight or activation changes far more.
TOLERANCE = 1e-5


def logits_close(found: Tensor, expected: Tensor) -> bool:
    """Whether all logits float32[..., 2] lie within TOLERANCE of the largest finite expected one.

    Infinities must be equal, and NaN equals NaN.
    """
    finite = expected[expected.isfinite()]
    largest = finite.abs().max().item() if len(finite) else 0.0
    return torch.allclose(found, expected, rtol=0, atol=TOLERANCE * largest, equal_nan=True)


def rows_agree(found: Tensor, expected: Tensor) -> Tensor:
    """Compare logits float32[n, 2] row by row.

    Returns:
        bool[n]: the row is within TOLERANCE of its largest logit (or of 1, if that is larger), and
        both choose the same action, unless the two expected logits are that close themselves.
    """
    tolerance = TOLERANCE * expected.abs().amax(1).clamp(min=1)
    near = (found - expected).abs().amax(1) <= tolerance
    lead, expected_lead = found[:, 0] - found[:, 1], expected[:, 0] - expected[:, 1]
    return near & ((lead.sign() == expected_lead.sign()) | (expected_lead.abs() <= tolerance))
