"""Tests of cartpole/policy/buffers.py."""

import gc
import weakref

import torch

from cartpole.policy.buffers import Buffers, memory_of
from cartpole.policy.contract import MAX_ROWS


def test_a_view_keeps_its_tensor_alive() -> None:
    tensor = torch.arange(4.0)
    reference = weakref.ref(tensor)
    part = memory_of(tensor)[4:8]
    del tensor
    gc.collect()
    assert reference() is not None
    assert part.cast("f").tolist() == [1.0]
    del part
    gc.collect()
    assert reference() is None


def test_values_go_through_the_tensors() -> None:
    buffers = Buffers.allocate()

    def step(rows: int) -> None:
        buffers.outputs[:rows] = buffers.observations[:rows, 2:] * 2

    batch = buffers.batch(step, [(rows,) for rows in range(MAX_ROWS + 1)])
    assert buffers.one(step, (1,))(1, 2, 3, 4) == (6, 8)
    assert batch([(0, 0, row, -row) for row in range(MAX_ROWS)]) == [
        (2 * row, -2 * row) for row in range(MAX_ROWS)
    ]
