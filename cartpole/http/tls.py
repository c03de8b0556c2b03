"""TLS as a transport over a plain one, which can do and may take what that can do and may take.

asyncio's own can't half-close, waits for the peer when it closes, and hides its handshakes.
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from uvicorn.server import ServerState

from cartpole.http.limits import HEALTH_RESERVE, RESERVE_SECONDS, Worker

if TYPE_CHECKING:
    from cartpole.http.connection import LimitedProtocol

READ_BYTES = 256 * 1024


class TLSTransport(asyncio.Protocol, asyncio.Transport):
    """Of the TCP connection below it is the protocol, to the HTTP protocol above the transport.

    The latter is made once the handshake is done; until then this is the worker's connection.
    """

    def __init__(
        self,
        worker: Worker,
        context: ssl.SSLContext,
        make: Callable[..., "LimitedProtocol"],
        *,
        server_state: ServerState,
        **arguments: Any,
    ) -> None:
        super().__init__()
        self._worker, self._context = worker, context
        self._make, self._arguments = make, arguments
        # uvicorn's, which waits for what is in there before it ends.
        self._state, self._connections = server_state, server_state.connections
        self._protocol: LimitedProtocol | None = None
        self._made = worker.second
        self._patience = worker.limits.head_seconds
        self._heard_all = self._said_all = self._overloaded = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    # What the TCP connection calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._below = transport
        self._connections.add(self)  # type: ignore[arg-type]
        excess = self._worker.admit(self)
        self._overloaded = excess > 0
        if self._overloaded:
            self._patience = RESERVE_SECONDS
        if excess > HEALTH_RESERVE:  # not worth a handshake
            self._worker.refused(HTTPStatus.SERVICE_UNAVAILABLE)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None  # no cycle keeps what OpenSSL holds
        if protocol:
            protocol.connection_lost(exc)
        else:
            self._connections.discard(self)
            self._worker.leave(self)

    def data_received(self, data: bytes) -> None:
        if self._said_all:
            return  # whatever else it says is not read
        self._incoming.write(data)
        if self._protocol or self._shake_hands():
            self._read()

    def eof_received(self) -> bool:
        """Without a close_notify too: a request that is whole ends by itself."""
        if not self._protocol:
            return False
        self._end_of_input()
        return True  # it is closed here, if it is to be

    def pause_writing(self) -> None:
        if self._protocol:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol:
            self._protocol.resume_writing()

    # What the worker and uvicorn call until the handshake is done

    def check_time(self) -> None:
        late = self._worker.second - self._made > self._patience
        if late and not self.is_closing():
            self._worker.refused(HTTPStatus.REQUEST_TIMEOUT)
        if late or self.is_closing() or self._worker.close_idle():
            self.abort()

    def shutdown(self) -> None:
        """A little later, as an idle connection."""

    # What the HTTP protocol calls

    def write(self, data: Any) -> None:
        try:
            while data and not self._said_all:
                data = data[self._tls.write(data) :]
        except ssl.SSLError:
            return self.abort()  # of no matter to those that are answered together with it
        self._send()

    def write_eof(self) -> None:
        self._say_all()
        self._below.write_eof()

    def can_write_eof(self) -> bool:
        return self._below.can_write_eof()

    def close(self) -> None:
        """Says so to the client, and doesn't wait until it has said the same."""
        if not self._below.is_closing():
            self._say_all()
            self._below.close()

    def abort(self) -> None:
        self._below.abort()

    def is_closing(self) -> bool:
        return self._below.is_closing()

    def get_write_buffer_size(self) -> int:
        return self._below.get_write_buffer_size()

    def pause_reading(self) -> None:
        self._below.pause_reading()

    def resume_reading(self) -> None:
        self._below.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "sslcontext":  # by which uvicorn knows the scheme
            return self._context
        return self._below.get_extra_info(name, default)

    # TLS

    def _shake_hands(self) -> bool:
        """As far as what has come allows; whether it is done."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError:
            self._worker.refused(HTTPStatus.BAD_REQUEST)
            self._send()  # an alert, which says why
            self._said_all = True
            self._below.close()
            return False
        self._send()
        self._protocol = self._make(server_state=self._state, **self._arguments)
        self._connections.discard(self)
        self._worker.replace(self, self._protocol)
        self._protocol.overloaded = self._overloaded
        self._protocol.connection_made(self)
        return not self.is_closing()

    def _read(self) -> None:
        parts, ended, broken = [], False, False
        try:
            while self._incoming.pending or self._tls.pending():
                part = self._tls.read(READ_BYTES)
                if not part:
                    ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass  # a part of a record
        except ssl.SSLError:
            broken = True
        self._send()  # whatever TLS itself has to say
        if parts and self._protocol:
            self._protocol.data_received(b"".join(parts))
        if broken:
            self.close()
        elif ended:
            self._end_of_input()

    def _end_of_input(self) -> None:
        if self._heard_all or self.is_closing() or not self._protocol:
            return
        self._heard_all = True
        if not self._protocol.eof_received():
            self.close()

    def _say_all(self) -> None:
        """Send a close_notify."""
        if not self._said_all:
            self._said_all = True
            with suppress(ssl.SSLError):  # the client has not sent its own, or something else
                self._tls.unwrap()
            self._send()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())
