"""Tests of cartpole/policy/tolerance.py."""

import pytest
import torch

from cartpole.policy.tolerance import logits_close, rows_agree

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("found", "expected", "close"),
    [
        ([10.0, -2.0], [10.0, -2.0], True),
        ([10.0, -2.00009], [10.0, -2.0], True),  # of the largest logit, 1e-5 is 1e-4
        ([10.0, -2.00011], [10.0, -2.0], False),
        ([INF, 1.0], [INF, 1.0], True),
        ([-INF, 1.0], [INF, 1.0], False),
        ([NAN, 1.0], [NAN, 1.0], True),
        ([0.0, 1.0], [NAN, 1.0], False),
        ([1e-45, 0.0], [0.0, 0.0], False),
    ],
)
def test_logits_close(found: list[float], expected: list[float], close: bool) -> None:
    assert logits_close(torch.tensor(found), torch.tensor(expected)) == close


@pytest.mark.parametrize(
    ("found", "expected", "agree"),
    [
        ([10.0, -2.0], [10.0, -2.0], True),
        ([10.0, -2.00009], [10.0, -2.0], True),
        ([10.0, -2.00011], [10.0, -2.0], False),
        ([9e-6, 0.0], [0.0, 0.0], True),  # logits below 1 are compared as if one were 1
        ([1.1e-5, 0.0], [0.0, 0.0], False),
        ([0.5, 0.500004], [0.500004, 0.5], True),  # another action, but it was a tie
        ([1.000004, 1.000006], [1.000012, 1.0], False),  # another action, within the tolerance
        ([NAN, 1.0], [NAN, 1.0], False),
    ],
)
def test_rows_agree(found: list[float], expected: list[float], agree: bool) -> None:
    assert rows_agree(torch.tensor([found]), torch.tensor([expected])).tolist() == [agree]
