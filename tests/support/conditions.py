"""A connection in memory under harsh conditions: TLS, short turns, passing time."""

import asyncio
import ssl
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from bench.certificate import make_certificate
from cartpole.api.inference import Inference
from cartpole.http.limits import ClientLimits
from cartpole.http.time_limits import CLOSE_SECONDS
from cartpole.http.tls import TLSTransport
from tests.support.memory import Connection, Transport

SECONDS = 8  # longer than every time limit below
LIMITS = {"head_bytes": 2000, "body_bytes": 1000, "head_seconds": 5, "keep_alive_seconds": 6}


@dataclass(frozen=True)
class Conditions:
    """Conditions of a connection.

    Attributes:
        tls: whether all is encrypted.
        turn_bytes: what a turn of the event loop reads, if not as much as usual.
        seconds: that pass after each part.
        past_limit: whether there are as many connections already as there may be.
    """

    tls: bool = False
    turn_bytes: int | None = None
    seconds: int = 0
    past_limit: bool = False


async def compare(
    inference: Inference, conditions: Conditions, parts: Sequence[bytes], eof: bool = False
) -> bytes:
    """Check that both modes answer the same and close every connection; return the answer."""
    fast = await _answer(Connection(inference, True, _limits(conditions)), conditions, parts, eof)
    asgi = await _answer(Connection(inference, False, _limits(conditions)), conditions, parts, eof)
    assert fast == asgi
    return fast


def _limits(conditions: Conditions) -> ClientLimits:
    return ClientLimits(**LIMITS, connections=0 if conditions.past_limit else 100)


async def _answer(
    connection: Connection, conditions: Conditions, parts: Sequence[bytes], eof: bool
) -> bytes:
    client = TLSClient(connection) if conditions.tls else None
    connection.shared.turns.bytes_per_turn = (
        conditions.turn_bytes or connection.shared.turns.bytes_per_turn
    )
    for part in parts:
        await _readable(connection)
        if connection.transport.closed:
            break
        if client:
            client.send(part)
        else:
            connection.protocol.data_received(part)
        for _ in range(conditions.seconds):
            await connection.rest()  # or it would be chance whether the response is in time
            connection.shared.connections.tick()
    await _readable(connection)
    if eof and not connection.transport.closed:
        if client:
            client.close_notify()
        elif not connection.protocol.eof_received():
            connection.transport.close()
    await connection.rest()
    await _must_end(connection)
    return client.received() if client else bytes(connection.transport.written)


async def _readable(connection: Connection) -> None:
    """Wait until the protocol accepts data: the event loop reads nothing while paused."""
    for _ in range(10_000):
        await asyncio.sleep(0)
        if connection.transport.closed or not connection.transport.reading_paused:
            return
    raise AssertionError("it reads no more")


async def _must_end(connection: Connection) -> None:
    """Check that a client that sends and reads nothing more is disconnected."""
    for _ in range(SECONDS + CLOSE_SECONDS):
        connection.shared.connections.tick()
        await connection.rest()
    assert connection.transport.closed
    for _ in range(CLOSE_SECONDS + 1):
        connection.shared.connections.tick()
    assert connection.transport.aborted


class TLSClient:
    """The client side of a connection in memory, with TLS added to it."""

    def __init__(self, connection: Connection) -> None:
        connection.protocol.connection_lost(None)  # a connection with TLS replaces it
        self._transport = connection.transport = Transport()
        self._server = TLSTransport(connection.shared, _context())
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        self._tls = trusting.wrap_bio(self._incoming, self._outgoing)
        self._server.connection_made(self._transport)
        for _ in range(2):
            with suppress(ssl.SSLWantReadError):
                self._tls.do_handshake()
            self._flush()
            self._incoming.write(bytes(self._transport.written))
            self._transport.written.clear()
        self._transport.set_protocol(self._server._protocol)

    def _flush(self) -> None:
        self._server.data_received(self._outgoing.read())

    def send(self, data: bytes) -> None:
        self._tls.write(data)
        self._flush()

    def close_notify(self) -> None:
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        self._flush()

    def received(self) -> bytes:
        """Everything that the server sent before its close_notify."""
        self._incoming.write(bytes(self._transport.written))
        parts = []
        with suppress(ssl.SSLZeroReturnError):
            while part := self._tls.read(65536):
                parts.append(part)
        return b"".join(parts)


@cache
def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        context.load_cert_chain(f"{folder}/certificate.pem", f"{folder}/key.pem")
    return context
