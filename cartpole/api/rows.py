"""Rows of numbers, as they stand in JSON or in a tensor, to observations float32[n, 4] as bytes."""

import struct
from collections.abc import Callable
from itertools import chain
from math import isfinite
from typing import Any

import orjson

from cartpole.api.observation import NAMES
from cartpole.api.request_bodies import RequestError
from cartpole.predictor import OBSERVATIONS

MAX_BATCH = 4096  # rows of one request

_MAX_SHOWN = 40  # characters of a bad value in an error message


def parse_json(body: bytes | memoryview) -> Any:
    """The JSON value of a body. Raises RequestError if it is none, or one with NaN or Infinity."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"the body is not valid JSON: {error}") from None


def check_count(rows: int) -> None:
    """Raises RequestError unless a request may have so many rows."""
    if rows < 1:
        raise RequestError(400, "there are no rows")
    if rows > MAX_BATCH:
        raise RequestError(400, f"there are {rows} rows, more than {MAX_BATCH}")


def numbers_of(rows: list[Any]) -> list[Any]:
    """The elements of rows of four, in order.

    Raises:
        RequestError: a row is not a list of four elements.
    """
    if set(map(type, rows)) == {list} and set(map(len, rows)) == {OBSERVATIONS}:
        return list(chain.from_iterable(rows))
    for number, row in enumerate(rows):
        if type(row) is not list:
            raise RequestError(400, f"row {number} is not a list of {OBSERVATIONS} numbers")
        if len(row) != OBSERVATIONS:
            text = f"row {number} has {len(row)} elements, expected {OBSERVATIONS}"
            raise RequestError(400, text)
    return []


def pack_numbers(numbers: list[Any], code: str, name: str) -> bytes:
    """Numbers as the bytes of a tensor.

    Args:
        numbers: elements of JSON.
        code: the letter of the tensor's type in the module struct.
        name: the type's name, for error messages.

    Raises:
        RequestError: an element is no number, or beyond the range of the type; or it is not an
            integer and the type is one of integers.
    """
    is_integer = code not in "efd"
    allowed = {int} if is_integer else {int, float}
    if not set(map(type, numbers)) <= allowed:
        index = next(i for i, number in enumerate(numbers) if type(number) not in allowed)
        kind = "an integer" if is_integer else "a number"
        raise bad_element(index, f"is not {kind}", numbers[index])
    try:
        return struct.pack(f"<{len(numbers)}{code}", *numbers)
    except (struct.error, OverflowError):
        index = next(i for i, number in enumerate(numbers) if not _fits(code, number))
        text = f"is beyond the range of {name}"
        raise bad_element(index, text, numbers[index]) from None


def check_finite(rows: memoryview, given: Callable[[], list[Any]]) -> None:
    """Raises RequestError if a value of float32[n, 4] is not finite.

    Args:
        rows: the bytes of at most MAX_BATCH rows.
        given: returns the 4n elements as they were sent.
    """
    values = rows.cast("f")
    # The sum is one of doubles, which so few float32 values can't overflow. Calls into PyTorch
    # would take longer for up to some hundred rows (bench/protocol.py).
    if not isfinite(sum(values)):
        index = next(i for i, value in enumerate(values) if not isfinite(value))
        raise bad_element(index, "is not finite as float32", given()[index])


def bad_element(index: int, problem: str, value: Any) -> RequestError:
    """The error that names an element of the rows by its row and its column."""
    row, column = divmod(index, OBSERVATIONS)
    text = repr(value) if isinstance(value, float) else orjson.dumps(value).decode()
    shown = text[:_MAX_SHOWN] + "…" * (len(text) > _MAX_SHOWN)
    return RequestError(400, f"row {row}: {NAMES[column]} {problem}: {shown}")


def _fits(code: str, number: float) -> bool:
    try:
        struct.pack(f"<{code}", number)
    except (struct.error, OverflowError):
        return False
    return True
