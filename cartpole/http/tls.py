"""TLS as a transport over TCP, with half-close, an end that never waits, and bounded handshakes.

asyncio's own TLS can't half-close, waits for the peer's close_notify, and hides its handshakes.
"""

import asyncio
import ssl
from contextlib import suppress
from typing import Any

from cartpole.http.connection import Connection
from cartpole.http.connections import RESERVE_SECONDS, Admission
from cartpole.http.shared import Shared
from cartpole.metrics.rejections import NOT_HTTP, TOO_MANY_CONNECTIONS, TOO_SLOW

READ_BYTES = 256 * 1024  # decrypted at once: as much as uvloop receives


class TLSTransport(asyncio.Protocol, asyncio.Transport):
    """The protocol of a TCP connection, and the transport of an HTTP connection above it.

    The HTTP connection is made once the handshake is done. Until then, this object is counted
    among the open connections.
    """

    def __init__(self, shared: Shared, context: ssl.SSLContext) -> None:
        super().__init__()
        self._shared, self._connections, self._context = shared, shared.connections, context
        self._protocol: Connection | None = None
        self._seconds = 0  # of the handshake
        self._has_received_all = self._has_sent_all = False
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    # Called by the TCP connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._below = transport
        self._admission = self._connections.admit(self)
        if self._admission is Admission.NOTHING:  # not worth a handshake
            self._connections.rejections.record(TOO_MANY_CONNECTIONS)
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None  # so that OpenSSL's memory is freed
        if protocol:
            protocol.connection_lost(exc)
        else:
            self._connections.remove(self)

    def data_received(self, data: bytes) -> None:
        if self._has_sent_all or self._has_received_all:
            return  # what follows is not read
        self._incoming.write(data)
        if self._protocol or self._shake_hands():
            self._read()

    def eof_received(self) -> bool:
        """Half-close, also without a close_notify: HTTP itself says where a request ends."""
        if not self._protocol:
            return False
        self._end_input()
        return True  # uvloop keeps it open; _end_input closes it if nothing is owed

    def pause_writing(self) -> None:
        if self._protocol:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol:
            self._protocol.resume_writing()

    # Called once a second, and by uvicorn, until the handshake is done

    def check_time(self) -> None:
        is_all = self._admission is Admission.ALL
        seconds = self._shared.limits.head_seconds if is_all else RESERVE_SECONDS
        self._seconds += 1
        is_late = self._seconds > seconds
        if is_late and not self.is_closing():
            self._connections.rejections.record(TOO_SLOW)
        if is_late or self.is_closing() or self._connections.idle_grace_is_over():
            self.abort()

    def shutdown(self) -> None:
        """check_time ends the handshake, a little later, as it does an idle connection."""

    # Called by the HTTP connection

    def write(self, data: Any) -> None:
        try:
            while data and not self._has_sent_all:
                data = data[self._tls.write(data) :]
        except ssl.SSLError:
            return self.abort()  # must not raise: others are answered in the same batch
        self._send()

    def write_eof(self) -> None:
        self._send_close_notify()
        self._below.write_eof()

    def close(self) -> None:
        """Send a close_notify, and do not wait for the client's."""
        if not self._below.is_closing():
            self._send_close_notify()
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
        if name == "sslcontext":  # by which exchange.py knows the scheme
            return self._context
        return self._below.get_extra_info(name, default)

    # TLS

    def _shake_hands(self) -> bool:
        """Go on with the handshake. True once it is complete, unless the connection is closing."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError:
            self._connections.rejections.record(NOT_HTTP)
            self._send()  # an alert with the reason
            self._has_sent_all = True
            self._below.close()
            return False
        self._send()
        self._protocol = Connection(self._shared, self._admission)
        self._connections.replace(self, self._protocol)
        self._protocol.connection_made(self)
        return not self.is_closing()

    def _read(self) -> None:
        parts, has_ended, is_broken = [], False, False
        try:
            while self._incoming.pending or self._tls.pending():
                part = self._tls.read(READ_BYTES)
                if not part:
                    has_ended = True
                    break
                parts.append(part)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still to come
        except ssl.SSLError:
            is_broken = True
        self._send()  # answers of TLS itself, such as to a key update
        if parts and self._protocol:
            self._protocol.data_received(b"".join(parts))
        if is_broken:
            self.close()
        elif has_ended:
            self._end_input()

    def _end_input(self) -> None:
        if self._has_received_all or self.is_closing() or not self._protocol:
            return
        self._has_received_all = True
        if not self._protocol.eof_received():
            self.close()

    def _send_close_notify(self) -> None:
        if not self._has_sent_all:
            self._has_sent_all = True
            with suppress(ssl.SSLError):  # the client has not sent its own close_notify yet
                self._tls.unwrap()
            self._send()

    def _send(self) -> None:
        if self._outgoing.pending:
            self._below.write(self._outgoing.read())
