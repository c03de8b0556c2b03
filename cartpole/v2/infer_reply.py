"""The reply to an infer request: JSON, the bytes of tensors behind it, compressed if asked for."""

import re
import zlib
from typing import Any

from orjson import dumps

from cartpole.api.request_bodies import HEADER_LENGTH
from cartpole.api.responses import Headers, headers
from cartpole.v2.contract import MODEL, OUTPUTS, VERSION
from cartpole.v2.infer_request import InferBatch

_BINARY = b"application/octet-stream"
_WINDOW_BITS = {b"gzip": 31, b"deflate": 15}  # RFC 9110, section 8.4.1: deflate means zlib's format
_LEVEL = 1  # of zlib; higher ones take several times as long for a few percent of floats

# RFC 9110, section 12.4.2: a coding and its weight.
_parse_coding = re.compile(
    rb"[ \t]*([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*(?:;[ \t]*[qQ]=([01](?:\.[0-9]{0,3})?)[ \t]*)?"
).fullmatch


def render_infer(batch: InferBatch) -> tuple[bytes, int | None]:
    """The body of a reply, and the size of its JSON if tensors follow that as bytes."""
    tensors: list[dict[str, Any]] = []
    binary: list[bytes | bytearray] = []
    for output, is_binary in batch.wanted:
        data = _data(batch, output.name)
        tensor: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.shape(len(batch)),
        }
        if is_binary:
            tensor["parameters"] = {"binary_data_size": len(data)}
            binary.append(data)
        else:  # orjson writes NaN and infinities as null
            tensor["data"] = memoryview(data).cast(output.code).tolist()
        tensors.append(tensor)
    reply: dict[str, Any] = {"model_name": MODEL, "model_version": VERSION, "outputs": tensors}
    if batch.id is not None:
        reply["id"] = batch.id
    json = dumps(reply)
    return (b"".join((json, *binary)), len(json)) if binary else (json, None)


def _data(batch: InferBatch, name: str) -> bytes | bytearray:
    """The bytes of an output, row by row."""
    if name == OUTPUTS["action"].name:
        return batch.actions()
    return batch.logits if name == OUTPUTS["logits"].name else batch.values


def encode_reply(body: bytes, json_size: int | None, accepted: bytes) -> tuple[bytes, Headers]:
    """The body as it is sent, and its header lines.

    Args:
        json_size: of the JSON before compression, if bytes follow it.
        accepted: the client's Accept-Encoding.
    """
    coding = choose_coding(accepted) if accepted else b""
    if coding:
        compressor = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[coding])
        body = compressor.compress(body) + compressor.flush()
    if json_size is None:
        lines = headers(len(body))
    else:
        lines = headers(len(body), _BINARY)
        lines.append((HEADER_LENGTH, b"%d" % json_size))
    if coding:
        lines.append((b"content-encoding", coding))
    return body, lines


def choose_coding(accepted: bytes) -> bytes:
    """The coding that the client likes best, gzip before deflate; empty for none."""
    weights: dict[bytes, float] = {}
    for part in accepted.split(b","):
        if match := _parse_coding(part):
            weights[match[1].lower()] = float(match[2] or 1)
    others = weights.get(b"*", 0)
    best = max(_WINDOW_BITS, key=lambda coding: weights.get(coding, others))
    weight = weights.get(best, others)
    return best if weight > 0 and weight >= weights.get(b"identity", 0) else b""
