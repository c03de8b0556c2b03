"""A client with a constant request rate on keep-alive connections; it counts every response."""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.server import Server
from tests.support.paths import GOLDEN

REQUEST = f"GET /inference?{GOLDEN} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
CONNECTIONS = 20

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Load:
    """The outcome of all requests.

    Attributes:
        sent: how many there were.
        answered: with 200 and the right body.
        retried: sent again on a new connection, since a kept one was closed before any answer to it
            came, as HTTP clients do with idempotent requests.
        lost: not answered at all, though the connection was new.
        other: answered otherwise.
        stop: set to end it.
        each: how many requests each connection's client is to send.
    """

    port: int
    rate: int
    sent: int = 0
    answered: int = 0
    retried: int = 0
    lost: int = 0
    bodies: set[bytes] = field(default_factory=set)
    other: list[bytes] = field(default_factory=list)
    stop: bool = False
    each: int = 0
    _started: float = 0

    async def run(self, seconds: float) -> None:
        self._started = time.monotonic()
        self.each = int(self.rate * seconds / CONNECTIONS)
        await asyncio.gather(*(self._client(number) for number in range(CONNECTIONS)))

    def finish(self) -> int:
        """End it once everything that is due by now was sent: rate times time, returned."""
        self.each = int(self.rate * (time.monotonic() - self._started) / CONNECTIONS) + 1
        return self.each * CONNECTIONS

    async def _client(self, number: int) -> None:
        connection: Connection | None = None
        for index in itertools.count():
            due = self._started + (index * CONNECTIONS + number) / self.rate
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if self.stop or index >= self.each:
                break
            self.sent += 1
            connection = await self._ask(connection)
        _close(connection)

    async def _ask(self, kept: Connection | None) -> Connection | None:
        """Send a request, on the kept connection if there is one; return the connection to keep."""
        connection = kept
        try:
            connection = connection or await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = connection
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            body = await reader.readexactly(length)
        except (OSError, asyncio.IncompleteReadError) as error:
            _close(connection)
            if kept and not getattr(error, "partial", b""):
                self.retried += 1
                return await self._ask(None)
            self.lost += 1
            return None
        if head.startswith(b"HTTP/1.1 200 "):
            self.answered += 1
            self.bodies.add(body)
        else:
            self.other.append(head)
        if b"connection: close" in head.lower():
            _close(connection)
            return None
        return connection


def _close(connection: Connection | None) -> None:
    if connection:
        connection[1].close()


RATE, ANSWERS = 1000, 500  # requests a second; responses before and after the action


def under_load(server: Server, act: Callable[[], object] = lambda: None) -> Load:
    """Run a load before, during and after an action."""
    load = Load(server.port, RATE)

    async def more() -> None:
        enough = load.answered + ANSWERS
        while load.answered < enough:
            await asyncio.sleep(0.01)

    async def run() -> None:
        loading = asyncio.create_task(load.run(120))
        await more()
        await asyncio.to_thread(act)
        await more()
        load.stop = True
        await loading

    asyncio.run(run())
    return load


def check_all_answered(load: Load) -> None:
    # A kept connection may be closed as idle in the moment in which the client sends.
    assert load.retried <= 2
    assert (load.lost, load.other) == (0, [])
    assert load.answered == load.sent
