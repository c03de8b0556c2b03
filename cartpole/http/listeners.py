"""How many connections a turn of the event loop accepts: few for a lonely client, many for many.

libuv accepts one connection per listener and turn. Where busy connections make turns long, new
ones would wait (bench/overload.py). But each listener that finds no connection costs a system call
(bench/traffic.py: one request per connection).
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

MOST = 16


class Listeners:
    """Servers that listen on the same socket: one for every two open connections, at most 16."""

    def __init__(
        self,
        servers: list[asyncio.base_events.Server],
        listen: Callable[[], Coroutine[Any, Any, asyncio.base_events.Server]],
    ) -> None:
        """Add to these servers, and take from them.

        Args:
            servers: one, which always stays.
            listen: makes another.
        """
        self._servers, self._listen = servers, listen
        self._growth: asyncio.Task[None] | None = None
        self._most_open = 0  # connections, since the last call of shrink

    def grow(self, connections: int) -> None:
        """So many are open. Call it with each new one."""
        self._most_open = max(self._most_open, connections)
        is_growing = self._growth and not self._growth.done()
        if len(self._servers) < _wanted(connections) and not is_growing:
            self._growth = asyncio.get_running_loop().create_task(self._grow())

    async def _grow(self) -> None:
        try:
            while len(self._servers) < _wanted(self._most_open):
                self._servers.append(await self._listen())
        except OSError:  # no descriptor is left; those that are served go first
            self._most_open = 0

    def shrink(self) -> None:
        """Close half of those that were not needed since the last call. Called once a second.

        Making one takes 0.1 ms, so they stay for a while.
        """
        spare, self._most_open = len(self._servers) - _wanted(self._most_open), 0
        for _ in range((spare + 1) // 2):
            self._servers.pop().close()


def _wanted(connections: int) -> int:
    return min(max(1, connections // 2), MOST)
