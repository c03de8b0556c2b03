"""Infer requests that are wrong: each gets a clear 4xx, whatever is in it."""

import asyncio
import gzip
import json
import struct
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from tests.support.asgi import call, post
from tests.support.v2 import INFER, LENGTH, ROW, binary, infer, pack, tensor

DEEP = 100_000
BAD = {
    "no body": (b"", "the body is not valid JSON: "),
    "no JSON": (b"{", "the body is not valid JSON: "),
    "NaN": (infer().replace(b"-1.0", b"NaN"), "the body is not valid JSON: "),
    "Infinity": (infer().replace(b"-1.0", b"Infinity"), "the body is not valid JSON: "),
    "1e400": (infer().replace(b"-1.0", b"1e400"), "the body is not valid JSON: "),
    "not UTF-8": (infer(id="x").replace(b'"x"', b'"\xff"'), "the body is not valid JSON: "),
    "lone surrogate": (infer().replace(b'"observation"', b'"\\ud800"'), "the body is not valid"),
    "behind the JSON": (infer() + b"x", "the body is not valid JSON: "),
    "deep": (b"[" * DEEP + b"]" * DEEP, "the body is not valid JSON: "),
    "deep data": (infer(tensor(data="D")).replace(b'"D"', b"[" * 900 + b"]" * 900), "row 0 has 1"),
    "a list": (b"[]", "the request is not a JSON object"),
    "null": (b"null", "the request is not a JSON object"),
    "nothing": (b"{}", "inputs are missing"),
    "inputs": (json.dumps({"inputs": {}}).encode(), "inputs are not a list"),
    "no input": (json.dumps({"inputs": []}).encode(), "expected one input, observation, f"),
    "an input": (infer(3), "an input is not an object"),
    "no name": (infer(tensor(name=None)), "the name of an input is not a string"),
    "name": (infer(tensor(name=["observation"])), "the name of an input is not a string"),
    "other name": (infer(tensor(name="o")), "expected one input, observation, found 'o'"),
    "two inputs": (infer(tensor(), tensor()), "expected one input, observation, found 'obs"),
    "no datatype": (infer(tensor(datatype=None)), "the datatype of observation is none of FP32, "),
    "BF16": (infer(tensor(datatype="BF16")), "the datatype of observation is none of FP32, "),
    "BYTES": (infer(tensor(datatype="BYTES")), "the datatype of observation is none of FP32, "),
    "BOOL": (infer(tensor(datatype="BOOL")), "the datatype of observation is none of FP32, "),
    "fp32": (infer(tensor(datatype="fp32")), "the datatype of observation is none of FP32, "),
    "datatypes": (infer(tensor(datatype=["FP32"])), "the datatype of observation is none of FP32"),
    "empty": (infer(tensor(0)), "there are no rows"),
    "too many": (infer(tensor(4097)), "there are 4097 rows, more than 4096"),
    "huge": (infer(tensor(shape=[2**63, 4])), "there are 9223372036854775808 rows, more"),
    "negative": (infer(tensor(shape=[-1, 4])), "there are no rows"),
    "no data": (infer(tensor(data=None)), "the input observation has neither data nor"),
    "data": (infer(tensor(data={})), "the data of observation is not a list"),
    "too few": (infer(tensor(data=ROW[:3])), "the data of observation has 3 elements, its shape 4"),
    "too much": (infer(tensor(data=ROW * 2)), "the data of observation has 8 elements"),
    "no data at all": (infer(tensor(data=[])), "the data of observation has 0 elements"),
    "ragged": (infer(tensor(2, data=[ROW, ROW[:2]])), "row 1 has 2 elements, expected 4"),
    "mixed": (infer(tensor(2, data=[ROW, 1])), "row 1 is not a list of 4 numbers"),
    "nested too deep": (infer(tensor(data=[[ROW] * 4])), "row 0: position is not a number: [0.0"),
    "string": (infer(tensor(data=[0, 0, "1", 0])), 'row 0: angle is not a number: "1"'),
    "boolean": (infer(tensor(2, data=[*ROW, True, 0, 0, 0])), "row 1: position is not a number: t"),
    "none": (infer(tensor(data=[0, None, 0, 0])), "row 0: velocity is not a number: null"),
    "beyond": (infer(tensor(data=[0, 0, 1e39, 0])),
               "row 0: angle is beyond the range of FP32: 1e+39"),
    "beyond FP64": (infer(tensor(data=[0, 3.4028236e38, 0, 0], datatype="FP64")),
                    "row 0: velocity is not finite as float32: 3.4028236e+38"),
    "beyond FP16": (infer(tensor(data=[0, 7e4, 0, 0], datatype="FP16")),
                    "row 0: velocity is beyond the range of FP16: 70000.0"),
    "beyond INT8": (infer(tensor(data=[0, 0, 128, 0], datatype="INT8")),
                    "row 0: angle is beyond the range of INT8: 128"),
    "beyond UINT64": (infer(tensor(data=[0, 0, -1, 0], datatype="UINT64")),
                      "row 0: angle is beyond the range of UINT64: -1"),
    "no integer": (infer(tensor(data=[0, 0, 1.0, 0], datatype="INT32")),
                   "row 0: angle is not an integer: 1.0"),
    "not exact": (infer(tensor(data=[0, 2**24 + 1, 0, 0], datatype="INT32")),
                  "row 0: velocity can't be held exactly by float32: 16777217"),
    "not exact INT64": (infer(tensor(data=[0, 2**63 - 1, 0, 0], datatype="INT64")),
                        "row 0: velocity can't be held exactly by float32: 9223372036854775807"),
    "not exact UINT64": (infer(tensor(data=[2**64 - 1, 0, 0, 0], datatype="UINT64")),
                         "row 0: position can't be held exactly by float32: 18446744073709551615"),
    "id": (infer(id=3), "the id is not a string"),
    "parameters": (infer(parameters=[]), "the parameters of the request are not an object"),
    "binary_data_output": (infer(parameters={"binary_data_output": 1}), "the parameter bin"),
    "shared memory": (infer(tensor(parameters={"shared_memory_region": "x"})),
                      "the parameter shared_memory_region of the input observation is not "),
    "outputs": (infer(outputs={}), "outputs are not a list"),
    "an output": (infer(outputs=["logits"]), "an output is not an object"),
    "no output": (infer(outputs=[{}]), "the name of an output is not a string"),
    "other output": (infer(outputs=[{"name": "q"}]), "there is no output 'q', only logits"),
    "twice": (infer(outputs=[{"name": "value"}] * 2), "the output value is given more than once"),
    "binary_data": (infer(outputs=[{"name": "value", "parameters": {"binary_data": "x"}}]),
                    "the parameter binary_data is not a boolean"),
    "classes": (infer(outputs=[{"name": "logits", "parameters": {"classification": 2}}]),
                "the parameter classification of the output logits is not supported"),
    "size without bytes": (infer(tensor(data=None, parameters={"binary_data_size": 16})),
                           "0 bytes follow the JSON, the binary_data_size of observation is 16"),
    "size and data": (infer(tensor(parameters={"binary_data_size": 16})),
                      "the input observation has both data and binary_data_size"),
}  # fmt: skip
SHAPES: list[Any] = [
    None, [], 4, "[1,4]", [1], [4], [1, 5], [1, 4, 1], [1.0, 4], [True, 4], [1, 4.0], ["1", "4"],
    [1e30, 4], [None, 4], [[1], 4], {"0": 1}, [1, -4], [4, 1], [2**64, 4], [10**30, 4],
]  # fmt: skip


def refused(answer: tuple[int, dict[bytes, bytes], bytes], status: int = 400) -> str:
    found, headers, body = answer
    assert (found, headers[b"content-type"]) == (status, b"application/json"), body
    error = json.loads(body)
    assert list(error) == ["error"]
    text: str = error["error"]
    assert len(text) < 300
    return text


@pytest.mark.parametrize("name", BAD)
def test_a_wrong_request(app: Starlette, name: str) -> None:
    body, text = BAD[name]
    assert refused(post(app, INFER, body)).startswith(text)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_wrong_shape(app: Starlette, shape: Any) -> None:
    body = json.dumps({"inputs": [tensor() | {"shape": shape}]}).encode()
    assert refused(post(app, INFER, body)) == "the shape of observation is not [rows, 4]"


LENGTHS = {
    b"-1": "is not a number of bytes",
    b"1.0": "is not a number of bytes",
    b"": "is not a number of bytes",
    b"x": "is not a number of bytes",
    b"+1": "is not a number of bytes",
    b"1_0": "is not a number of bytes",
    "²".encode(): "is not a number of bytes",
    b"9" * 5000: "is not a number of bytes",
    b"99999": "is 99999, the body has ",
}


@pytest.mark.parametrize("value", LENGTHS, ids=lambda value: repr(value[:6]))
def test_a_wrong_header_length(app: Starlette, value: bytes) -> None:
    text = refused(post(app, INFER, infer(), (LENGTH, value)))
    assert text.startswith("Inference-Header-Content-Length " + LENGTHS[value])


def test_header_lengths_that_differ(app: Starlette) -> None:
    text = refused(post(app, INFER, infer(), (LENGTH, b"1"), (LENGTH, b"2")))
    assert text == "Inference-Header-Content-Length is given more than once"
    assert refused(post(app, INFER, infer(), (LENGTH, b"1"))).startswith("the body is not valid")


def test_wrong_bytes(app: Starlette) -> None:
    for data, rows in ((b"x" * 15, 1), (b"", 1), (pack([ROW]), 2)):
        text = refused(post(app, INFER, *binary(data, rows)))
        assert (
            text == f"the binary_data_size of observation is not {16 * rows}, the size of its shape"
        )
    body, length = binary(pack([ROW]), 1)
    for wrong, text in ((body + b"x", "17 bytes follow"), (body[:-1], "15 bytes follow")):
        assert refused(post(app, INFER, wrong, length)).startswith(text)
    head = infer()
    length = (LENGTH, b"%d" % len(head))
    assert refused(post(app, INFER, head + b"abc", length)).startswith("3 bytes follow the JSON")
    for size in (16.0, True, "16", -16, 2**70, [16]):
        one = tensor(data=None, parameters={"binary_data_size": size})
        body = infer(one)
        answer = post(app, INFER, body + pack([ROW]), (LENGTH, b"%d" % len(body)))
        assert refused(answer).startswith("the binary_data_size of observation is not 16")


def test_wrong_values_in_bytes(app: Starlette) -> None:
    nan, inf = float("nan"), float("inf")
    for datatype, letter, value, shown in (
        ("FP32", "f", nan, "is not finite as float32: nan"),
        ("FP32", "f", -inf, "is not finite as float32: -inf"),
        ("FP64", "d", 1e39, "is not finite as float32: 1e+39"),
        ("FP16", "e", inf, "is not finite as float32: inf"),
        ("INT32", "i", -(2**24) - 1, "can't be held exactly by float32: -16777217"),
        ("UINT64", "Q", 2**64 - 1, "can't be held exactly by float32: 18446744073709551615"),
    ):
        data = struct.pack(f"<8{letter}", 0, 0, 0, 0, 0, value, 0, 0)
        assert refused(post(app, INFER, *binary(data, 2, datatype))) == f"row 1: velocity {shown}"
    both = pack([[0, inf, -inf, 0]])
    assert (
        refused(post(app, INFER, *binary(both, 1)))
        == "row 0: velocity is not finite as float32: inf"
    )
    assert refused(post(app, INFER, pack([[0, nan, 0, 0]]), (LENGTH, b"0"))).startswith(
        "row 0: velo"
    )


def test_wrong_raw_requests(app: Starlette) -> None:
    for body, text in (
        (b"", "there are no rows"),
        (b"x" * 17, "the body has 17 bytes, expected 16 for each row"),
        (bytes(16 * 4097), "there are 4097 rows, more than 4096"),
    ):
        assert refused(post(app, INFER, body, (LENGTH, b"0"))) == text


GZIP = (b"content-encoding", b"gzip")


def test_wrong_compressed_bodies(app: Starlette) -> None:
    body = gzip.compress(infer())
    for sent, text in (
        (body[:-1], "the body ends within its gzip stream"),
        (body[:5], "the body ends within its gzip stream"),
        (b"", "the body ends within its gzip stream"),
        (body + b"x", "bytes follow the gzip stream of the body"),
        (body * 2, "bytes follow the gzip stream of the body"),
        (infer(), "the body is not valid gzip"),
        (body[:-8] + bytes(8), "the body is not valid gzip"),
        (zlib.compress(infer()), "the body is not valid gzip"),
    ):
        assert refused(post(app, INFER, sent, GZIP)) == text
    raw = zlib.compressobj(wbits=-15)
    deflated = raw.compress(infer()) + raw.flush()  # without zlib's frame, which RFC 9110 demands
    line = (b"content-encoding", b"deflate")
    assert refused(post(app, INFER, deflated, line)) == "the body is not valid deflate"


@pytest.mark.parametrize("path", [INFER, "/inference", "/v2/repository/index"])
def test_a_bomb_is_not_inflated(app: Starlette, path: str) -> None:
    bomb = zlib.compressobj(wbits=31)
    sent = bomb.compress(bytes(200_000_000)) + bomb.flush()
    assert len(sent) < 1_000_000
    text = "the request body is larger than 1048576 bytes after decompression"
    assert refused(post(app, path, sent, GZIP), 413) == text
    text = "the request body is larger than 1048576 bytes"
    assert refused(post(app, path, bytes(1048577)), 413) == text


@pytest.mark.parametrize("coding", [b"br", b"gzip, gzip", b"identity, gzip", b"\xff", b"zstd"])
@pytest.mark.parametrize("path", [INFER, "/inference", "/v2/repository/index"])
def test_an_unknown_coding(app: Starlette, path: str, coding: bytes) -> None:
    status, headers, _ = post(app, path, b"", (b"content-encoding", coding))
    assert (status, headers[b"accept-encoding"]) == (415, b"gzip, deflate")
    two = [(b"content-encoding", b"gzip")] * 2
    assert post(app, path, b"", *two)[0] == 415


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False)
    | st.sampled_from(["observation", "logits", "FP32", "INT8", "data", "x"]),
    lambda inner: st.lists(inner, max_size=5)
    | st.dictionaries(
        st.sampled_from(
            ["inputs", "outputs", "name", "shape", "datatype", "data", "parameters", "id",
             "binary_data_size", "binary_data", "binary_data_output", "observations"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=30,
)  # fmt: skip


@settings(deadline=None, max_examples=300)
@given(
    value=JSON,
    member=st.sampled_from(["inputs", "outputs", "parameters", "id", "tensor", "all"]),
    cut=st.integers(0, 300),
    length=st.none() | st.integers(-2, 400),
)
def test_never_500(app: Starlette, value: Any, member: str, cut: int, length: int | None) -> None:
    request: Any = {"inputs": [tensor()]}
    if member == "tensor" and isinstance(value, dict):
        request["inputs"] = [tensor() | value]
    elif member == "all":
        request = value
    else:
        request[member] = value
    body = json.dumps(request).encode().replace(b"Infinity", b"1e400")
    lines = [] if length is None else [(LENGTH, b"%d" % length)]

    async def run() -> None:
        for sent in (body, body[:cut], body + bytes(16)):
            for path in (INFER, "/inference", "/v2/repository/index"):
                status, _, answer = await call(app, "POST", path, lines=lines, body=sent)
                assert status in (200, 400), answer
                assert status == 200 or isinstance(json.loads(answer)["error"], str)

    asyncio.run(run())
