"""The input tensor: JSON or bytes of a numeric datatype to observations float32[n, 4]."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cartpole.api.request_bodies import RequestError
from cartpole.api.rows import bad_element, check_finite, numbers_of, pack_numbers
from cartpole.predictor import OBSERVATIONS
from cartpole.v2.contract import INPUT


@dataclass(frozen=True)
class Datatype:
    """A numeric type of the protocol.

    Attributes:
        code: its letter in the module struct.
        dtype: the same type of PyTorch.
        size: bytes of an element.
    """

    name: str
    code: str
    dtype: torch.dtype

    @property
    def size(self) -> int:
        return self.dtype.itemsize


DATATYPES = {
    name: Datatype(name, code, dtype)
    for name, code, dtype in (
        ("FP32", "f", torch.float32),
        ("FP64", "d", torch.float64),
        ("FP16", "e", torch.float16),
        ("INT8", "b", torch.int8),
        ("INT16", "h", torch.int16),
        ("INT32", "i", torch.int32),
        ("INT64", "q", torch.int64),
        ("UINT8", "B", torch.uint8),
        ("UINT16", "H", torch.uint16),
        ("UINT32", "I", torch.uint32),
        ("UINT64", "Q", torch.uint64),
    )
}
FP32 = DATATYPES["FP32"]


def from_json(data: Any, rows: int, datatype: Datatype) -> memoryview:
    """Elements of JSON, flat or in rows.

    Raises:
        RequestError: they are not 4 numbers for each row, or a value is not one of the datatype,
            or not one that float32 can hold (see from_bytes).
    """
    if type(data) is not list:
        raise RequestError(400, f"the data of {INPUT} is not a list")
    numbers = numbers_of(data) if data and type(data[0]) is list else data
    if len(numbers) != rows * OBSERVATIONS:
        text = f"the data of {INPUT} has {len(numbers)} elements, its shape {rows * OBSERVATIONS}"
        raise RequestError(400, text)
    return from_bytes(pack_numbers(numbers, datatype.code, datatype.name), datatype)


def from_bytes(data: bytes | memoryview, datatype: Datatype) -> memoryview:
    """Little-endian elements of whole rows.

    Floating-point numbers are rounded to float32, as GET /inference rounds decimals. Integers are
    not: what float32 can't hold exactly is refused.

    Raises:
        RequestError: a value is not finite as float32, or an integer that float32 can't hold.
    """
    if datatype is FP32:
        rows = memoryview(data)
        check_finite(rows, rows.cast("f").tolist)
        return rows
    # PyTorch warns of memory that can't be written.
    given = torch.frombuffer(bytearray(data), dtype=datatype.dtype)
    found = bytearray(4 * len(given))
    torch.frombuffer(found, dtype=torch.float32).copy_(given)
    rows = memoryview(found)
    if datatype.dtype.is_floating_point:
        check_finite(rows, given.tolist)
    elif datatype.size > 2:
        _check_exact(rows.cast("f").tolist(), given.tolist())
    return rows


def _check_exact(observations: Sequence[float], integers: Sequence[int]) -> None:
    if observations == integers:  # Python compares float and int by their exact values
        return
    pairs = zip(observations, integers, strict=True)
    index = next(i for i, (found, given) in enumerate(pairs) if found != given)
    raise bad_element(index, "can't be held exactly by float32", integers[index])
