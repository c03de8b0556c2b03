"""POST /inference, and requests that take long."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette

from cartpole.api.batches import LIGHT_BYTES
from cartpole.api.inference import Inference
from cartpole.app import create_app
from cartpole.policy.contract import Engine, Observation
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import load
from cartpole.predictor import Predictor
from tests.support.asgi import call, post
from tests.support.models import mlp, save
from tests.support.v2 import INFER, ROW, infer, tensor
from tests.support.wrapped_engine import WrappedEngine


@pytest.fixture(scope="module")
def app(engine: Engine) -> Starlette:
    return create_app(Inference(Predictor(engine)))


def ask(app: Starlette, value: Any) -> tuple[int, Any]:
    status, headers, body = post(app, "/inference", json.dumps(value).encode())
    assert headers[b"content-type"] == b"application/json"
    return status, json.loads(body)


def test_rows_of_both_spellings(app: Starlette, engine: Engine) -> None:
    rows: list[Observation] = [(0, 0, -1, 0), (0, 0, 1, 0), (1.5, -2, 0.1, 3)]
    status, answer = ask(app, rows)
    assert status == 200
    assert answer["logits"] == list(map(list, engine.batch(rows)))
    assert answer["actions"] == [int(right > left) for left, right in answer["logits"]]
    assert list(answer) == ["logits", "actions"]
    assert ask(app, {"observations": rows, "more": 1}) == (200, answer)


BAD: list[tuple[Any, str]] = [
    ({}, "observations are missing"),
    ({"observations": None}, "observations are not a list of rows"),
    (None, "observations are not a list of rows"),
    (3, "observations are not a list of rows"),
    ("[]", "observations are not a list of rows"),
    ([], "there are no rows"),
    ({"observations": []}, "there are no rows"),
    (ROW, "row 0 is not a list of 4 numbers"),
    ([ROW, None], "row 1 is not a list of 4 numbers"),
    ([ROW, ROW[1:]], "row 1 has 3 elements, expected 4"),
    ([[]], "row 0 has 0 elements, expected 4"),
    ([[[ROW]]], "row 0 has 1 elements, expected 4"),
    ([[0, 0, "1", 0]], 'row 0: angle is not a number: "1"'),
    ([[0, 0, 0, True]], "row 0: angular_velocity is not a number: true"),
    ([ROW, [None, 0, 0, 0]], "row 1: position is not a number: null"),
    ([[0, {"a": "b" * 99}, 0, 0]], 'row 0: velocity is not a number: {"a":"' + "b" * 34 + "…"),
    ([[0, 0, 0, 1e39]], "row 0: angular_velocity is beyond the range of float32: 1e+39"),
    ([[0, -3.4028235677973366e38, 0, 0]], "row 0: velocity is beyond the range of float32: -3.40"),
    ([ROW] * 4097, "there are 4097 rows, more than 4096"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), BAD, ids=[text for _, text in BAD])
def test_bad_rows(app: Starlette, value: Any, text: str) -> None:
    status, answer = ask(app, value)
    assert (status, list(answer)) == (400, ["error"])
    assert answer["error"].startswith(text)


@pytest.mark.parametrize(
    "body", [b"", b"[[NaN,0,0,0]]", b"[[0,0,0,1e999]]", b"[[01,0,0,0]]", b"\xff"]
)
def test_what_is_no_json(app: Starlette, body: bytes) -> None:
    status, _, answer = post(app, "/inference", body)
    assert status == 400
    assert json.loads(answer)["error"].startswith("the body is not valid JSON: ")


def test_the_edge_of_float32(app: Starlette) -> None:
    assert ask(app, [[3.4028235677973362e38, 1e-400, 0, -0.0]])[0] == 200


@settings(deadline=None)
@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4,
                         max_size=4), min_size=1, max_size=5))  # fmt: skip
def test_rows_alone_and_together(app: Starlette, rows: list[list[float]]) -> None:
    _, together = ask(app, rows)
    assert together["logits"] == [ask(app, [row])[1]["logits"][0] for row in rows]


HEAVY = infer(tensor(4096))
assert len(HEAVY) > LIGHT_BYTES


def test_heavy_requests_work_one_step_a_turn(engine: Engine) -> None:
    """Five of them share the event loop with others: a turn has at most one of their forwards."""
    wrapped = WrappedEngine(engine)
    app = create_app(Inference(Predictor(wrapped)))

    async def run() -> list[int]:
        work = [asyncio.create_task(call(app, "POST", INFER, body=HEAVY)) for _ in range(5)]
        seen = [0]
        while not all(one.done() for one in work):
            await asyncio.sleep(0)
            seen.append(len(wrapped.sizes))
            if len(seen) == 20:  # a small one goes between them
                status, _, _ = await call(app, "POST", "/inference", body=b"[[0,0,0,0]]")
                assert status == 200
                assert not any(one.done() for one in work[1:])
        assert all(one.result()[0] == 200 for one in work)
        return seen

    seen = asyncio.run(run())
    assert wrapped.sizes.count(256) == 5 * 16
    steps = [after - before for before, after in pairwise(seen)]
    assert max(steps) <= 2  # the small one's too


def test_an_answer_is_of_one_policy(engine: Engine, tmp_path: Any) -> None:
    """A reload while a request is answered changes none of its rows."""
    other = make_engine(load(save(tmp_path / "other.pt", mlp(4, 16, 2))))
    predictor = Predictor(engine)
    app = create_app(Inference(predictor))

    async def run() -> tuple[bytes, bytes]:
        work = asyncio.create_task(call(app, "POST", INFER, body=HEAVY))
        for _ in range(6):
            await asyncio.sleep(0)
        assert not work.done()
        predictor.use(other)
        mixed = (await work)[2]
        predictor.use(engine)
        return mixed, (await call(app, "POST", INFER, body=HEAVY))[2]

    mixed, whole = asyncio.run(run())
    assert mixed == whole


def test_a_client_that_leaves_gets_no_answer(app: Starlette) -> None:
    sent: list[Any] = []
    parts: list[dict[str, Any]] = []

    async def receive() -> Any:
        return parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "headers": [],
        "query_string": b"",
        "root_path": "",
    }
    for path in ("/inference", INFER, "/v2/repository/index"):
        parts[:] = [
            {"type": "http.request", "body": b"{", "more_body": True},
            {"type": "http.disconnect"},
        ]
        asyncio.run(app(scope | {"path": path}, receive, send))
    assert sent == []


def test_a_body_in_parts(app: Starlette) -> None:
    body = infer()
    parts: list[dict[str, Any]] = [
        {"body": body[:9], "more_body": True},
        {"more_body": True},
        {"body": body[9:]},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request"} | parts.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http",
        "method": "POST",
        "headers": [],
        "path": INFER,
        "root_path": "",
    }
    asyncio.run(app(scope, receive, send))
    assert sent[1]["body"] == post(app, INFER, body)[2]


def test_the_limit_on_bodies_is_the_services(engine: Engine) -> None:
    app = create_app(Inference(Predictor(engine)), body_bytes=64)
    assert post(app, "/inference", b"[[0,0,0,0]]")[0] == 200
    assert post(app, "/inference", b"[[0,0,0,0]]" + b" " * 64)[0] == 413
    raw = (b"inference-header-content-length", b"0")
    assert [post(app, INFER, bytes(size), raw)[0] for size in (64, 80)] == [200, 413]
