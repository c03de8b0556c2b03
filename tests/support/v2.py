"""Requests and replies of the Open Inference Protocol, as plain bytes."""

import json
import struct
from collections.abc import Sequence
from typing import Any

INFER = "/v2/models/cartpole/infer"
LENGTH = b"inference-header-content-length"
ROW = [0.0, 0.0, -1.0, 0.0]
OUTPUTS = ("logits", "value", "action")
LETTERS = {"FP32": "f", "INT64": "q"}

Header = tuple[bytes, bytes]


def tensor(rows: int = 1, **other: Any) -> dict[str, Any]:
    """The input tensor; a member that is None is left out."""
    found = {
        "name": "observation",
        "shape": [rows, 4],
        "datatype": "FP32",
        "data": ROW * rows,
    } | other
    return {name: value for name, value in found.items() if value is not None}


def infer(*inputs: Any, **other: Any) -> bytes:
    return json.dumps({"inputs": list(inputs or [tensor()])} | other).encode()


def binary(data: bytes, rows: int, datatype: str = "FP32", **other: Any) -> tuple[bytes, Header]:
    """The body of a request with these bytes as its tensor, and the header that it needs."""
    size = {"binary_data_size": len(data)}
    one = tensor(rows, datatype=datatype, data=None, parameters=size)
    head = infer(one, **other)
    return head + data, (LENGTH, b"%d" % len(head))


def wanted(*names: str, binary_data: bool = True) -> list[dict[str, Any]]:
    return [{"name": name, "parameters": {"binary_data": binary_data}} for name in names]


def pack(rows: Sequence[Sequence[float]]) -> bytes:
    values = [value for row in rows for value in row]
    return struct.pack(f"<{len(values)}f", *values)


def read(headers: dict[bytes, bytes], body: bytes) -> dict[str, Any]:
    """The outputs of a reply by name: lists of JSON, or numbers of the bytes behind it."""
    size = int(headers.get(LENGTH, len(body)))
    reply, rest = json.loads(body[:size]), body[size:]
    found = {}
    for output in reply["outputs"]:
        if "data" in output:
            found[output["name"]] = output["data"]
            continue
        size = output["parameters"]["binary_data_size"]
        letter = LETTERS[output["datatype"]]
        numbers = struct.unpack(f"<{size // struct.calcsize(letter)}{letter}", rest[:size])
        found[output["name"]], rest = list(numbers), rest[size:]
    assert not rest
    return found
