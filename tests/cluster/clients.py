"""Clients that read the list of endpoints and send requests at a constant rate."""

import asyncio
import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from threading import Thread

from tests.support.paths import GOLDEN

RATE = 1000  # requests a second
CONNECTIONS = 20
PATIENCE_SECONDS = 2  # for an answer; a busy machine gives one within that
REQUEST = f"GET /inference?{GOLDEN} HTTP/1.1\r\nHost: cartpole\r\n\r\n".encode()

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Load:
    """Requests, and what became of them.

    A client keeps a connection to one endpoint. A request that fails there is sent once more, on a
    fresh connection to an endpoint of another host, or of the same one if no other is listed.

    Attributes:
        endpoints: reads the list.
        started, ended: when, in seconds of the monotonic clock.
        sent: how many there were, without the retries.
        answered: with 200, at once or after the retry.
        retried: that needed the retry.
        lost: that failed twice.
        bodies: all that were received.
    """

    endpoints: Callable[[], list[str]]
    started: float = field(default_factory=time.monotonic)
    ended: float = math.inf
    sent: int = 0
    answered: int = 0
    retried: int = 0
    lost: list[str] = field(default_factory=list)
    bodies: set[bytes] = field(default_factory=set)

    async def run(self) -> None:
        """Send until `ended`, and then what is due from before it: a client that waits is late."""
        await asyncio.gather(*(self._client(number) for number in range(CONNECTIONS)))

    async def _client(self, number: int) -> None:
        client = Client(number)
        for index in itertools.count():
            due = self.started + (index * CONNECTIONS + number) / RATE
            while due > time.monotonic() and due <= self.ended:
                await asyncio.sleep(min(due - time.monotonic(), 0.1))
            if due > self.ended:
                break
            self.sent += 1
            await self._request(client)
        client.close()

    async def _request(self, client: "Client") -> None:
        try:
            body = await client.ask(self.endpoints())
        except (OSError, EOFError) as error:
            self.retried += 1
            try:
                body = await client.ask_another(self.endpoints())
            except (OSError, EOFError) as second:
                self.lost.append(f"{error!r}, then {second!r}")
                return
        self.answered += 1
        self.bodies.add(body)


class Client:
    """One connection at a time."""

    def __init__(self, number: int) -> None:
        self._number, self._endpoint = number, ""
        self._stream: Stream | None = None

    async def ask(self, endpoints: list[str]) -> bytes:
        """Raises OSError or EOFError if there is no answer in time."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._stream is None:
                    self._endpoint = endpoints[self._number % len(endpoints)]
                    host, _, port = self._endpoint.partition(":")
                    self._stream = await asyncio.open_connection(host, int(port))
                return await self._exchange(*self._stream)
        except (OSError, EOFError):
            self.close()
            raise

    async def ask_another(self, endpoints: list[str]) -> bytes:
        failed = self._endpoint.partition(":")[0]
        others = [endpoint for endpoint in endpoints if not endpoint.startswith(f"{failed}:")]
        return await self.ask(others or endpoints)

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(REQUEST)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        if not head.startswith(b"http/1.1 200 "):
            raise OSError(head)
        if b"connection: close" in head:
            self.close()
        return body

    def close(self) -> None:
        if self._stream:
            with suppress(RuntimeError):
                self._stream[1].close()
        self._stream = None


@contextmanager
def under_load(endpoints: Callable[[], list[str]]) -> Iterator[Load]:
    """Requests before, during and after the block; then check that each was answered."""
    load = Load(endpoints)
    thread = Thread(target=lambda: asyncio.run(load.run()))
    thread.start()
    try:
        wait_for_more(load)
        yield load
        wait_for_more(load)
    finally:
        load.ended = time.monotonic()
        thread.join()
    # Rate times time, or a loss could hide behind a client that sent less.
    assert abs(load.sent - RATE * (load.ended - load.started)) <= CONNECTIONS
    assert (load.lost, load.answered) == ([], load.sent)


def wait_for_more(load: Load, answers: int = RATE) -> None:
    """Wait for so many more answers."""
    enough = load.answered + answers
    while load.answered < enough:
        assert load.ended == math.inf
        time.sleep(0.01)
