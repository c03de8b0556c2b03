"""Infer: the same answers as GET /inference, in every form that the protocol has."""

import asyncio
import json
import struct
import zlib
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlencode

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from cartpole.api.inference import Inference
from cartpole.api.observation import NAMES
from cartpole.app import create_app
from cartpole.policy.contract import Engine
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import Policy, load
from cartpole.predictor import Predictor
from tests.support.asgi import call, get, post
from tests.support.engines import observations
from tests.support.models import save
from tests.support.v2 import (
    INFER,
    LENGTH,
    OUTPUTS,
    ROW,
    binary,
    infer,
    pack,
    read,
    tensor,
    wanted,
)
from tests.support.wrapped_engine import WrappedEngine

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = st.lists(st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=9)


def query(row: Iterable[float]) -> bytes:
    return urlencode(dict(zip(NAMES, map(repr, row), strict=True))).encode()


def answers_of_get(app: Starlette, rows: Iterable[Iterable[float]]) -> list[float | None]:
    """left and right of each row in turn, by a GET request for each."""

    async def run() -> list[float | None]:
        found: list[float | None] = []
        for row in rows:
            status, _, body = await call(app, "GET", "/inference", query(row))
            assert status == 200
            found += json.loads(body).values()
        return found

    return asyncio.run(run())


def good(answer: tuple[int, dict[bytes, bytes], bytes]) -> tuple[dict[bytes, bytes], bytes]:
    status, headers, body = answer
    assert status == 200, body
    assert headers[b"content-length"] == b"%d" % len(body)
    return headers, body


@pytest.mark.parametrize("rows", [1, 2, 64, 256, 257])
def test_every_form_has_the_digits_of_get(either: Starlette, rows: int) -> None:
    batch = observations(rows)
    expected = answers_of_get(either, batch)
    data = [value for row in batch for value in row]

    plain = good(post(either, INFER, infer(tensor(rows, data=data))))
    assert read(*plain)["logits"] == expected
    nested = good(post(either, INFER, infer(tensor(rows, data=list(map(list, batch))))))
    assert nested == plain
    doubles = good(post(either, INFER, infer(tensor(rows, data=data, datatype="FP64"))))
    assert doubles == plain

    body, length = binary(pack(batch), rows, outputs=wanted("logits"))
    found = read(*good(post(either, INFER, body, length)))["logits"]
    assert [value if abs(value) < float("inf") else None for value in found] == expected

    _, text = good(post(either, "/inference", json.dumps({"observations": batch}).encode()))
    pairs = [expected[i : i + 2] for i in range(0, len(expected), 2)]
    assert json.loads(text)["logits"] == pairs
    if rows == 1:  # the very digits
        _, _, one = get(either, "/inference", query(batch[0]))
        left, right = (part.rpartition(b":")[2] for part in one.strip(b"}").split(b","))
        assert b"[[%b,%b]]" % (left, right) in text
        assert b"[%b,%b]" % (left, right) in plain[1]


def test_the_largest_batch(either: Starlette) -> None:
    rows = (observations(300) * 14)[:4096]
    body, length = binary(pack(rows), 4096)
    found = read(*good(post(either, INFER, body, length)))
    assert found["logits"][:8] == found["logits"][600:608]
    assert len(found["value"]) == len(found["action"]) == 4096
    last = answers_of_get(either, rows[-1:])
    assert found["logits"][-2:] == last


@settings(deadline=None)
@given(rows=ROWS)
def test_any_finite_rows(app: Starlette, rows: list[list[float]]) -> None:
    expected = answers_of_get(app, rows)
    flat = [value for row in rows for value in row]
    found = read(*good(post(app, INFER, infer(tensor(len(rows), data=flat)))))
    assert found["logits"] == expected
    pairs = zip(found["logits"][::2], found["logits"][1::2], strict=True)
    for action, (left, right) in zip(found["action"], pairs, strict=True):
        assert left is None or right is None or action == (right > left)


def test_values_are_the_modules(either: Starlette, policy: Policy) -> None:
    batch = [row for row in observations(400) if max(map(abs, row)) < 100]
    expected = policy.module(torch.tensor(batch))[1].flatten()
    body, length = binary(pack(batch), len(batch), outputs=wanted("value"))
    found = read(*good(post(either, INFER, body, length)))["value"]
    assert torch.allclose(torch.tensor(found), expected, rtol=1e-5, atol=1e-4)
    for number in (0, 1, len(batch) - 1):  # bit for bit the same alone
        body, length = binary(pack(batch[number : number + 1]), 1, outputs=wanted("value"))
        assert read(*good(post(either, INFER, body, length)))["value"] == [found[number]]


def test_the_value_head_is_computed_only_when_asked_for(engine: Engine) -> None:
    wrapped = WrappedEngine(engine)
    app = create_app(Inference(Predictor(wrapped)))
    for names in (("logits",), ("action",), ("action", "logits")):
        good(post(app, INFER, infer(outputs=wanted(*names))))
    assert (wrapped.values, len(wrapped.sizes)) == (0, 3)
    good(post(app, INFER, infer(outputs=wanted("value"))))
    assert (wrapped.values, len(wrapped.sizes)) == (1, 3)
    good(post(app, INFER, infer()))
    assert (wrapped.values, len(wrapped.sizes)) == (2, 4)
    good(post(app, "/inference", b"[[0,0,0,0]]"))
    assert (wrapped.values, len(wrapped.sizes)) == (2, 5)


EXACT: dict[str, tuple[str, list[float]]] = {
    "FP32": ("f", [0.5, -2.0, 3.4028234663852886e38, 1e-45]),
    "FP64": ("d", [0.1, -1e-320, 3.4028235e38, 16777217.0]),
    "FP16": ("e", [0.5, -65504.0, 6e-8, 0.333251953125]),
    "INT8": ("b", [-128, 127, 0, 1]),
    "INT16": ("h", [-32768, 32767, 0, 1]),
    "INT32": ("i", [-(2**31), 2**24, 2**30, 1]),
    "INT64": ("q", [-(2**63), 2**62, 16777216, -1]),
    "UINT8": ("B", [255, 0, 1, 2]),
    "UINT16": ("H", [65535, 0, 1, 2]),
    "UINT32": ("I", [2**32 - 256, 0, 1, 2]),
    "UINT64": ("Q", [2**64 - 2**40, 0, 1, 2]),
}


@pytest.mark.parametrize("datatype", EXACT)
def test_each_datatype(app: Starlette, datatype: str) -> None:
    letter, values = EXACT[datatype]
    expected = answers_of_get(app, [map(float, values)])
    found = read(*good(post(app, INFER, infer(tensor(data=values, datatype=datatype)))))
    assert found["logits"] == expected
    body, length = binary(struct.pack(f"<4{letter}", *values), 1, datatype)
    assert read(*good(post(app, INFER, body, length)))["logits"] == expected


def test_outputs_are_selected_and_ordered(app: Starlette) -> None:
    for names in (("action", "logits"), ("value",), ("logits", "action", "value")):
        _, body = good(post(app, INFER, infer(outputs=wanted(*names, binary_data=False))))
        assert [one["name"] for one in json.loads(body)["outputs"]] == list(names)
    for body in (infer(), infer(outputs=[]), infer(outputs=None)):
        headers, reply = good(post(app, INFER, body))
        assert list(read(headers, reply)) == list(OUTPUTS)
        assert LENGTH not in headers
        assert headers[b"content-type"] == b"application/json"


def test_json_and_bytes_in_one_reply(app: Starlette) -> None:
    outputs = [*wanted("action"), {"name": "logits"}, *wanted("value")]
    headers, body = good(post(app, INFER, infer(outputs=outputs)))
    size = int(headers[LENGTH])
    assert headers[b"content-type"] == b"application/octet-stream"
    assert len(body) == size + 8 + 4
    shapes = {
        one["name"]: (one["datatype"], one["shape"]) for one in json.loads(body[:size])["outputs"]
    }
    assert shapes == {
        "action": ("INT64", [1]),
        "logits": ("FP32", [1, 2]),
        "value": ("FP32", [1, 1]),
    }
    everything = good(post(app, INFER, infer(parameters={"binary_data_output": True})))
    assert int(everything[0][LENGTH]) == len(everything[1]) - 8 - 4 - 8
    outputs = [*wanted("logits", binary_data=False), {"name": "value"}]
    body = infer(outputs=outputs, parameters={"binary_data_output": True})
    headers, reply = good(post(app, INFER, body))
    assert len(reply) == int(headers[LENGTH]) + 4


def test_a_raw_request_is_answered_in_binary(app: Starlette) -> None:
    expected = read(*good(post(app, INFER, infer(tensor(2, data=[*ROW, 1, 2, 3, 4])))))
    headers, body = good(post(app, INFER, pack([ROW, [1, 2, 3, 4]]), (LENGTH, b"0")))
    assert read(headers, body) == expected
    assert headers[b"content-type"] == b"application/octet-stream"


@pytest.mark.parametrize("id", ["", "a", 'é\x00"\\', "x" * 10_000])
def test_ids_are_echoed(app: Starlette, id: str) -> None:
    assert json.loads(good(post(app, INFER, infer(id=id)))[1])["id"] == id
    assert "id" not in json.loads(good(post(app, INFER, infer()))[1])


def test_unknown_parameters_are_tolerated(app: Starlette) -> None:
    extra = {"sequence_id": 3, "priority": [1], "x": None}
    outputs = [{"name": "logits", "parameters": extra}]
    body = infer(tensor(parameters=extra), outputs=outputs, parameters=extra, more=1)
    assert read(*good(post(app, INFER, body)))["logits"] == answers_of_get(app, [ROW])


def test_logits_that_are_not_finite(tmp_path: Any) -> None:
    layer = torch.nn.Linear(4, 2)
    layer.weight.data = torch.tensor([[10.0, 10, 0, 0], [10, 0, 0, 0]])
    engine = make_engine(load(save(tmp_path / "model.pt", layer)))
    app = create_app(Inference(Predictor(engine)))
    row = (3e38, -3e38, 0.0, 0.0)
    expected = answers_of_get(app, [row])
    assert expected == [None, None]
    _, text = good(post(app, INFER, infer(tensor(data=row), outputs=[{"name": "logits"}])))
    assert json.loads(text)["outputs"][0]["data"] == expected
    body, length = binary(pack([row]), 1, outputs=wanted("logits"))
    found = read(*good(post(app, INFER, body, length)))["logits"]
    assert repr(found) == repr(list(engine.one(*row)))  # infinities and NaN as they are
    _, text = good(post(app, "/inference", json.dumps([row]).encode()))
    assert json.loads(text)["logits"] == [expected]


@pytest.mark.parametrize("coding", ["gzip", "deflate", "x-gzip"])
def test_a_compressed_body(app: Starlette, coding: str) -> None:
    bits = 15 if coding == "deflate" else 31
    body, length = binary(pack([ROW] * 600), 600)
    compressor = zlib.compressobj(wbits=bits)
    sent = compressor.compress(body) + compressor.flush()
    line = (b"content-encoding", coding.upper().encode())
    assert post(app, INFER, sent, length, line) == post(app, INFER, body, length)


@pytest.mark.parametrize(
    ("accepted", "coding"),
    [
        (b"gzip, deflate", b"gzip"),
        (b"deflate", b"deflate"),
        (b"gzip;q=0.5, deflate;q=0.8", b"deflate"),
        (b"gzip;q=0, deflate;q=0", b""),
        (b"gzip;q=0.5, identity", b""),
        (b"br, *", b"gzip"),
        (b"*;q=0", b""),
        (b"identity", b""),
        (b"br", b""),
        (b"", b""),
        (b"gzip;q=x;;,\xff", b""),
    ],
)
def test_a_reply_is_compressed_as_the_client_accepts(
    app: Starlette, accepted: bytes, coding: bytes
) -> None:
    line = (b"accept-encoding", accepted)
    for body, length in (
        binary(pack([ROW]), 1, parameters={"binary_data_output": True}),
        (infer(), None),
    ):
        lines = [line] if length is None else [line, length]
        plain_headers, plain = good(post(app, INFER, body, *lines[1:]))
        headers, reply = good(post(app, INFER, body, *lines))
        assert headers.get(b"content-encoding", b"") == coding
        assert headers.get(LENGTH) == plain_headers.get(LENGTH)  # of the JSON before compression
        bits = {b"gzip": 31, b"deflate": 15}
        assert (zlib.decompress(reply, bits[coding]) if coding else reply) == plain
    for path, body in ((INFER, b"{"), ("/inference", b"[[0,0,0,0]]")):
        assert b"content-encoding" not in post(app, path, body, line)[1]
