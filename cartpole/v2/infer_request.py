"""The body of an infer request: JSON, and the bytes of a tensor behind it, to a batch."""

import re
from dataclasses import dataclass
from typing import Any

from cartpole.api.batches import Batch
from cartpole.api.request_bodies import RequestError
from cartpole.api.rows import check_count, parse_json
from cartpole.predictor import OBSERVATION_BYTES, OBSERVATIONS
from cartpole.v2.contract import INPUT, OUTPUTS, Output
from cartpole.v2.tensors import DATATYPES, FP32, Datatype, from_bytes, from_json

# Parameters of extensions that are not offered. Ignoring one would answer another question.
_REFUSED = ("shared_memory_region", "classification")
_is_length = re.compile(rb"[0-9]{1,15}").fullmatch

Wanted = tuple[Output, bool]  # an output, and whether its bytes are asked for in place of JSON


@dataclass
class InferBatch(Batch):
    """The batch of an infer request.

    Attributes:
        id: what the request calls itself; None if it doesn't.
        wanted: the outputs in the order of the reply.
    """

    id: str | None = None
    wanted: tuple[Wanted, ...] = ()


def parse_header_length(value: bytes | None) -> int | None:
    """Read the header that says how many bytes of the body are JSON; None for all of them.

    Raises:
        RequestError: it is not a number of bytes.
    """
    if value is None:
        return None
    if not _is_length(value):
        raise RequestError(400, "Inference-Header-Content-Length is not a number of bytes")
    return int(value)


def parse_infer(body: bytes, header_length: int | None) -> InferBatch:
    """Read an infer request.

    Args:
        body: JSON, then the bytes of the tensor if they are not in it; decompressed.
        header_length: the size of the JSON; 0 for a body that is nothing but the tensor.

    Raises:
        RequestError: the request is wrong; the text says how.
    """
    if header_length == 0:
        return _raw(body)
    if header_length is None:
        header_length = len(body)
    if header_length > len(body):
        text = f"Inference-Header-Content-Length is {header_length}, the body has {len(body)} bytes"
        raise RequestError(400, text)
    request = parse_json(memoryview(body)[:header_length])
    if type(request) is not dict:
        raise RequestError(400, "the request is not a JSON object")
    request_id = request.get("id")
    if request_id is not None and type(request_id) is not str:
        raise RequestError(400, "the id is not a string")
    binary = _flag(_parameters(request, "the request"), "binary_data_output", False)
    wanted = _wanted(request.get("outputs"), binary)
    observations = _observations(request.get("inputs"), memoryview(body)[header_length:])
    return _batch(observations, wanted, request_id)


def _batch(
    observations: memoryview, wanted: tuple[Wanted, ...], request_id: str | None
) -> InferBatch:
    names = {output.name for output, _ in wanted}
    logits, values = not names.isdisjoint(("logits", "action")), "value" in names
    return InferBatch(observations, logits, values, id=request_id, wanted=wanted)


def _raw(body: bytes) -> InferBatch:
    """A body that is the input tensor alone, FP32 [-1, 4]."""
    rows, rest = divmod(len(body), OBSERVATION_BYTES)
    if rest:
        text = f"the body has {len(body)} bytes, expected {OBSERVATION_BYTES} for each row"
        raise RequestError(400, text)
    check_count(rows)
    return _batch(from_bytes(body, FP32), _all_outputs(True), None)


def _all_outputs(binary: bool) -> tuple[Wanted, ...]:
    return tuple((output, binary) for output in OUTPUTS.values())


def _wanted(outputs: Any, binary: bool) -> tuple[Wanted, ...]:
    """The outputs that are asked for: all if none is named, in binary if `binary` says so."""
    if outputs is None or outputs == []:
        return _all_outputs(binary)
    if type(outputs) is not list:
        raise RequestError(400, "outputs are not a list")
    wanted: dict[str, Wanted] = {}
    for output in outputs:
        name = _name(output, "output")
        if name not in OUTPUTS:
            raise RequestError(400, f"there is no output {name!r}, only {', '.join(OUTPUTS)}")
        if name in wanted:
            raise RequestError(400, f"the output {name} is given more than once")
        parameters = _parameters(output, f"the output {name}")
        wanted[name] = OUTPUTS[name], _flag(parameters, "binary_data", binary)
    return tuple(wanted.values())


def _observations(inputs: Any, rest: memoryview) -> memoryview:
    """The rows of the only input, float32[n, 4]; `rest` are the bytes behind the JSON."""
    if type(inputs) is not list:
        raise RequestError(400, "inputs are missing" if inputs is None else "inputs are not a list")
    names = [_name(one, "input") for one in inputs]
    if names != [INPUT]:
        shown = ", ".join(map(repr, names[:4])) or "none"
        raise RequestError(400, f"expected one input, {INPUT}, found {shown}")
    (tensor,) = inputs
    datatype = _datatype(tensor.get("datatype"))
    rows = _rows(tensor.get("shape"))
    size = _parameters(tensor, f"the input {INPUT}").get("binary_data_size")
    if size is None:
        if len(rest):
            raise RequestError(400, f"{len(rest)} bytes follow the JSON, but no binary_data_size")
        if "data" not in tensor:
            raise RequestError(400, f"the input {INPUT} has neither data nor binary_data_size")
        return from_json(tensor["data"], rows, datatype)
    if "data" in tensor:
        raise RequestError(400, f"the input {INPUT} has both data and binary_data_size")
    _check_size(size, rows * OBSERVATIONS * datatype.size, len(rest))
    return from_bytes(rest, datatype)


def _check_size(size: Any, expected: int, found: int) -> None:
    if type(size) is not int or size != expected:
        text = f"the binary_data_size of {INPUT} is not {expected}, the size of its shape"
        raise RequestError(400, text)
    if size != found:
        text = f"{found} bytes follow the JSON, the binary_data_size of {INPUT} is {size}"
        raise RequestError(400, text)


def _datatype(name: Any) -> Datatype:
    if type(name) is not str or name not in DATATYPES:
        text = f"the datatype of {INPUT} is none of {', '.join(DATATYPES)}"
        raise RequestError(400, text)
    return DATATYPES[name]


def _rows(shape: Any) -> int:
    if type(shape) is not list or list(map(type, shape)) != [int, int] or shape[1] != OBSERVATIONS:
        raise RequestError(400, f"the shape of {INPUT} is not [rows, {OBSERVATIONS}]")
    rows: int = shape[0]
    check_count(rows)
    return rows


def _name(tensor: Any, kind: str) -> str:
    if type(tensor) is not dict:
        raise RequestError(400, f"an {kind} is not an object")
    name = tensor.get("name")
    if type(name) is not str:
        raise RequestError(400, f"the name of an {kind} is not a string")
    return name[:100]


def _parameters(holder: dict[str, Any], what: str) -> dict[str, Any]:
    """The parameters of the request or of a tensor. Unknown ones are tolerated."""
    parameters = holder.get("parameters")
    if parameters is None:
        return {}
    if type(parameters) is not dict:
        raise RequestError(400, f"the parameters of {what} are not an object")
    for name in _REFUSED:
        if name in parameters:
            raise RequestError(400, f"the parameter {name} of {what} is not supported")
    return parameters


def _flag(parameters: dict[str, Any], name: str, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise RequestError(400, f"the parameter {name} is not a boolean")
    return value
