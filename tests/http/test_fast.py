"""The fast path and the ASGI application answer the same bytes with the same bytes."""

import asyncio
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cartpole.api.inference import Inference
from cartpole.api.observation import NAMES
from cartpole.app import create_app
from tests.support.corpus import CORPUS, EXPECTED, OTHER, STATUSES, USUAL, request
from tests.support.memory import Connection, answers, both, statuses


@pytest.mark.parametrize("name", CORPUS)
@pytest.mark.parametrize("eof", [False, True])
def test_corpus(inference: Inference, name: str, eof: bool) -> None:
    assert statuses(both(inference, [CORPUS[name]], eof)) == [EXPECTED[name]]


@pytest.mark.parametrize("name", CORPUS)
def test_corpus_between_fast_requests(inference: Inference, name: str) -> None:
    for parts in (
        [USUAL, CORPUS[name], USUAL, OTHER],
        [USUAL + CORPUS[name] + USUAL + OTHER],
    ):
        answer = both(inference, parts)
        after = [] if b"\r\nconnection: close\r\n" in answer else [200, 200]
        assert statuses(answer) == [200, EXPECTED[name], *after]


@pytest.mark.parametrize(
    "name", ["usual", "percent-encoded", "body", "chunked", "close", "bad header", "bad"]
)
def test_split_at_every_byte(inference: Inference, name: str) -> None:
    stream = OTHER + CORPUS[name] + USUAL
    expected = [200, EXPECTED[name], *([] if name in ("close", "bad header") else [200])]
    for cut in range(1, len(stream)):
        assert statuses(both(inference, [stream[:cut], stream[cut:]])) == expected
    bytewise = both(inference, [stream[index : index + 1] for index in range(len(stream))])
    assert statuses(bytewise) == expected


def test_every_prefix_then_end(inference: Inference) -> None:
    for length in range(len(USUAL) + 1):
        answer = both(inference, [USUAL[:length]], eof=True)
        assert (b"200 OK" in answer) == (length == len(USUAL))


VALUES = st.sampled_from(["0", "-1.5", "%31", "1e5", "nan", "", "1_0", "%2B1", "+1", "3.5e38", "x"])
QUERIES = st.lists(st.tuples(st.sampled_from([*NAMES, "x"]), VALUES), max_size=6).map(
    lambda pairs: "&".join(f"{name}={value}" for name, value in pairs)
)
GOOD = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=4, max_size=4
).map(lambda values: "&".join(f"{n}={v}".replace("+", "%2B") for n, v in zip(NAMES, values)))  # noqa: B905
REQUESTS = st.one_of(GOOD.map(request), QUERIES.map(request), st.sampled_from([*CORPUS.values()]))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(REQUESTS, st.binary(max_size=20)), max_size=6), st.data())
def test_made_streams(inference: Inference, requests: list[bytes], data: Any) -> None:
    stream = b"".join(requests)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=5)))
    edges = [0, *cuts, len(stream)]
    parts = [stream[a:b] for a, b in pairwise(edges) if a < b]
    answer = both(inference, parts, eof=data.draw(st.booleans()))
    assert set(statuses(answer)) <= {*STATUSES, 100, 204, 501}


def test_a_thousand_pipelined_half_of_them_bad(inference: Inference) -> None:
    chance = random.Random(1)
    queries = [
        f"position={chance.random()}&velocity=0&angle=0&angular_velocity=0" for _ in range(500)
    ]
    requests = [request(query) for good in queries for query in (good, "position=1")]

    async def run(fast: bool) -> bytes:
        return await Connection(inference, fast).send(b"".join(requests))

    written = asyncio.run(run(True))
    assert len(answers(written)) == 1000
    assert [status for status, _ in answers(written)] == [b"200", b"400"] * 500
    for query, (_, body) in zip(queries, answers(written)[::2], strict=True):
        assert body == inference.answer(query.encode())[1]


def test_stays_fast_and_becomes_fast_again(inference: Inference) -> None:
    async def run() -> None:
        entered: list[Any] = []
        app = create_app(inference)

        async def counted(scope: Any, receive: Any, send: Any) -> None:
            entered.append(scope["path"])
            await app(scope, receive, send)

        connection = Connection(inference, True, app=counted)
        await connection.send(USUAL, OTHER + USUAL, CORPUS["other order"], CORPUS["bad"])
        assert entered == []
        await connection.send(CORPUS["head"])
        assert entered == ["/inference"]
        await connection.send(USUAL, CORPUS["many headers"], USUAL)
        assert entered == ["/inference"]
        await connection.send(CORPUS["health"] + USUAL)
        await connection.send(USUAL, CORPUS["body"], USUAL[:20], USUAL[20:], USUAL)
        assert entered == ["/inference", "/health/ready"]
        assert len(answers(bytes(connection.transport.written))) == 14  # and the response to HEAD

    asyncio.run(run())


@pytest.mark.parametrize("end", [b"\0", b"", b" ", b" HTTP/1.1", b" HTTP/1.1\0"])
def test_a_query_without_a_head_is_no_request(inference: Inference, end: bytes) -> None:
    sent = USUAL.partition(b" HTTP")[0] + end
    found = statuses(both(inference, [sent, b"\r\n\r\n"]))
    assert found != [] and set(found) <= {400, 505}
