"""The cache of header blocks is bounded, and the date header is current."""

import asyncio

from cartpole.api.inference import Inference
from tests.support.corpus import USUAL, request
from tests.support.memory import Connection, answers
from tests.support.paths import GOLDEN


def test_header_blocks_are_remembered_within_bounds(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        for number in range(1500):
            await connection.send(request(GOLDEN, f"X: {number}"))
        assert len(connection.shared.header_cache._known) <= 1024
        assert len(answers(bytes(connection.transport.written))) == 1500

    asyncio.run(run())


def test_the_date_is_that_of_the_second(inference: Inference) -> None:
    async def run() -> None:
        connection = Connection(inference, True)
        await connection.send(USUAL)
        connection.state.default_headers = [(b"date", b"later"), (b"x", b"y")]
        assert b"\r\ndate: later\r\nx: y\r\ncontent-type" in await connection.send(USUAL)

    asyncio.run(run())
