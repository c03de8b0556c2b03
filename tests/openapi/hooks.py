"""Exceptions: rules that JSON Schema can't express, and failures of schemathesis that are none.

Schemathesis loads it by SCHEMATHESIS_HOOKS.
"""

import gzip
import json
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, HookContext
from schemathesis.core import NotSet
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.core.transport import Response

HEADER_LENGTH, CODING = "Inference-Header-Content-Length", "Content-Encoding"
BINARY = "application/octet-stream"
COMPRESS: Mapping[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "identity": bytes,
}

_row = st.tuples(*[st.floats(width=32, allow_nan=False, allow_infinity=False)] * 4)
_rows = st.lists(_row, min_size=1, max_size=64)

# A body of bytes is the input tensor alone.
schemathesis.openapi.media_type(
    BINARY, _rows.map(lambda rows: b"".join(struct.pack("<4f", *row) for row in rows))
)


@schemathesis.deserializer(BINARY)
def read_bytes(context: Any, response: Response) -> str:
    return response.content.decode("latin-1")


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """Mend a positive request in what the document says by words, since JSON Schema can't say it.

    - The number of elements is the product of the shape.
    - float32 holds integers exactly. They are written without a dot (1.0 is one for JSON Schema).
    - No output is named twice.
    - Content-Encoding is the coding of the body.
    - Inference-Header-Content-Length is the size of the JSON. It is 0 if the body is a tensor; and
      with 0, any body of 16·n bytes is one.
    """
    if case.method != "POST" or not (case.meta and case.meta.generation.mode.is_positive):
        return
    body: Any = case.body
    if isinstance(body, bytes):
        data, size = body, 0
    elif isinstance(body, NotSet):
        data, size = b"", 0
    else:
        if case.path.endswith("/infer"):
            _mend_infer(body)
        data = json.dumps(body).encode()
        size = len(data)
    if isinstance(body, bytes) or HEADER_LENGTH in case.headers:
        case.headers[HEADER_LENGTH] = str(size)
    kwargs["data"] = COMPRESS[case.headers.get(CODING, "identity")](data)


def _mend_infer(body: Any) -> None:
    if body.get("outputs"):
        body["outputs"] = list({one["name"]: one for one in body["outputs"]}.values())
    (tensor,) = body["inputs"]
    data, is_integer = tensor["data"], "INT" in tensor["datatype"]
    flat = [number for row in data for number in row] if isinstance(data[0], list) else data
    rows = len(flat) // 4
    numbers = [_exact(int(number)) if is_integer else number for number in flat[: 4 * rows]]
    tensor["data"] = numbers
    if data is not flat:
        tensor["data"] = [numbers[4 * row : 4 * row + 4] for row in range(rows)]
    tensor["shape"][0] = rows


def _exact(integer: int) -> int:
    return integer if abs(integer) <= 2**24 else integer % 2**24


@schemathesis.hook
def filter_failure(
    context: HookContext, failure: Failure, case: Case[Any], response: Response
) -> bool:
    """Whether a failure is one."""
    if isinstance(failure, AcceptedNegativeData):
        # An empty field line lists no coding (RFC 9110, section 5.6.1). The document leaves that
        # out, as a client that is generated from it would offer an empty coding.
        return response.request.headers.get(CODING) != ""
    return True
