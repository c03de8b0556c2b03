"""As many listeners as connections are made at once, and few again afterwards."""

import asyncio
import errno
import gc
import socket
from typing import Any, cast

import pytest

from cartpole.http.listeners import MOST, Listeners


@pytest.mark.parametrize(
    ("connections", "expected"), [(1, 1), (3, 1), (4, 2), (31, 15), (32, MOST), (9999, MOST)]
)
def test_one_for_every_two_connections(connections: int, expected: int) -> None:
    async def test() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as listener:

            async def listen() -> Any:
                return await loop.create_server(asyncio.Protocol, sock=listener.dup())

            servers = [await listen()]
            listeners = Listeners(servers, listen)
            for number in range(1, connections + 1):
                listeners.grow(number)
            async with asyncio.timeout(30):
                while len(servers) < expected:
                    await asyncio.sleep(0)
            for _ in range(20):  # turns, in which no more are made
                await asyncio.sleep(0)
            assert len(servers) == expected
            made = list(servers)

            listeners.shrink()  # as many were needed since the last call
            assert len(servers) == expected
            for _ in range(4):
                before = len(servers)
                listeners.shrink()
                assert len(servers) == before - before // 2
            assert len(servers) == 1
            listeners.shrink()  # one always stays
            assert [server.is_serving() for server in made] == [True] + [False] * (expected - 1)
            address = listener.getsockname()
            _, writer = await asyncio.open_connection(*address)
            writer.close()
            servers[0].close()

    asyncio.run(test())


def test_without_descriptors_there_are_no_more_until_the_next_second(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        tries, servers = 0, [cast(asyncio.base_events.Server, None)]

        async def listen() -> Any:
            nonlocal tries
            tries += 1
            if tries <= 2:
                raise OSError(errno.EMFILE, "Too many open files")

        listeners = Listeners(servers, listen)
        for number in (4, 4):  # the second finds the failed growth
            listeners.grow(number)
            await asyncio.sleep(0)
        gc.collect()
        assert len(servers) == 1
        listeners.shrink()
        listeners.grow(4)
        await asyncio.sleep(0)
        assert len(servers) == 2

    asyncio.run(test())
    gc.collect()
    assert caplog.records == []
