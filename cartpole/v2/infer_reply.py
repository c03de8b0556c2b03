"""The reply to an infer request: JSON, the bytes of tensors behind it, compressed if asked for."""

import zlib
from typing import Any

from orjson import dumps

from cartpole.api.content_codings import WINDOW_BITS, choose_coding
from cartpole.api.request_bodies import HEADER_LENGTH
from cartpole.api.responses import Headers, headers
from cartpole.v2.contract import MODEL, OUTPUTS, VERSION
from cartpole.v2.infer_request import InferBatch

_BINARY = b"application/octet-stream"
_CODINGS = ("gzip", "deflate")
_LEVEL = 1  # of zlib; higher ones take several times as long for a few percent of floats


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
    coding = choose_coding(accepted.decode("latin-1"), _CODINGS) if accepted else None
    if coding in WINDOW_BITS:
        compressor = zlib.compressobj(_LEVEL, wbits=WINDOW_BITS[coding])
        body = compressor.compress(body) + compressor.flush()
    if json_size is None:
        lines = headers(len(body))
    else:
        lines = headers(len(body), _BINARY)
        lines.append((HEADER_LENGTH, b"%d" % json_size))
    if coding in WINDOW_BITS:
        lines.append((b"content-encoding", coding.encode()))
    return body, lines
