"""Bytes to whole requests, or to one rejection. No transport, no event loop, no ASGI.

llhttp frames messages; head_rules.py and the size limits decide about the rest. llhttp can't be
paused, so it is fed in slices that hold the end of at most one message: a head, up to its empty
line; what a body or a chunk still lacks; a line of a chunk's size, or of a trailer.
"""

import re
from dataclasses import dataclass
from enum import Enum
from time import perf_counter_ns as clock

import httptools

from cartpole.api.responses import Headers
from cartpole.http.head_rules import check_head, origin_form
from cartpole.http.limits import ClientLimits
from cartpole.metrics.rejections import (
    BAD_TARGET,
    BODY_TOO_LARGE,
    HEAD_TOO_LARGE,
    NOT_HTTP,
    OTHER_VERSION,
    Rejection,
)

_match_empty_lines = re.compile(rb"[\r\n]*+").match  # before a request: RFC 9112, section 2.2
_REMEMBERED = 2048  # bytes of a head
_MOST_SLICES = 256  # that are read at a time, of a body in small chunks
_SIZE_LINE = 18  # bytes of a chunk's size and its CRLF; more are an extension, or padding


class Reading(Enum):
    """Where in the stream of requests a reader is."""

    IDLE = "between requests"
    HEAD = "in a head"
    BODY = "in a body, or in its trailers"
    ENDED = "behind the last request"
    REJECTED = "behind a request that is rejected"


IDLE, HEAD, BODY, ENDED, REJECTED = Reading


@dataclass(slots=True)
class Request:
    """A request whose head is complete.

    Attributes:
        path, query: of the target in origin-form, as they were sent.
        version: "1.0" or "1.1".
        headers: in their order; names in lower case, values without white space around them.
        keep_alive: the client may send another request.
        head_read_at: in nanoseconds of perf_counter_ns.
        expects_continue: the client may wait for 100 Continue before it sends the body.
        body: once it is whole.
    """

    method: str
    path: bytes
    query: bytes
    version: str
    headers: Headers
    keep_alive: bool
    head_read_at: int
    expects_continue: bool = False
    is_whole: bool = False
    body: bytes = b""

    def is_inference(self) -> bool:
        return self.path == b"/inference" and self.method == "GET"

    def is_health(self) -> bool:
        """Whether it asks for the health, as connections past the limit may do."""
        return self.path.startswith(b"/health/")


class RequestReader:
    """Reads one connection's requests, one at a time.

    Attributes:
        state: where in the stream it is.
        request: the latest one whose head is complete; whoever answers it takes it out.
        rejection: why nothing more is read, if a request breaks a rule.
        is_head: the latest request is a HEAD, as far as can be told.
        body_has_begun: a byte was read behind the latest head.
        head: of the latest request that is whole; empty if it was long.
    """

    def __init__(self, limits: ClientLimits) -> None:
        self.state = IDLE
        self.request: Request | None = None
        self.rejection: Rejection | None = None
        self.is_head = self.body_has_begun = False
        self.head = b""
        self._limits = limits
        self._parser = self._new_parser()
        self._offers_upgrade = self._parser_has_ended = False
        self._head, self._target = b"", b""  # of the request that is read
        self._headers: Headers = []
        self._body = bytearray()
        self._left = 0  # bytes of the body, or of a chunk with its CRLF, that are still to come
        self._line = b""  # of a chunk's size, so far
        self._is_chunked = self._in_trailers = False
        self._extension_bytes = self._trailer_bytes = 0
        self._previous: Request | None = None  # if the next may have the same head
        self._previous_size = 0  # of its body

    def _new_parser(self) -> httptools.HttpRequestParser:
        return httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Break the reference cycle with the parser, so that all memory is freed at once."""
        del self._parser

    def read(self, data: bytes, start: int) -> int:
        """Read data[start:], at most to the end of one request or to a rejection.

        Returns:
            Where it has stopped: before the end also within a body that comes in many chunks.
        """
        if self.state is IDLE:
            size = len(self.head) + self._previous_size
            self.request = self._previous and self.read_again(data[start : start + size])
            if self.request:
                return start + size
            start = _match_empty_lines(data, start).end()  # type: ignore[union-attr]
            if start < len(data):
                self._begin()
        for _ in range(_MOST_SLICES):
            if start == len(data) or not (self.state is HEAD or self.state is BODY):
                break
            if self.state is HEAD:
                end = self._head_end(data, start)
                self._read_head(data[start:end])
            else:
                end = self._body_end(data, start)
                self._read_body(data[start:end])
            start = end
        return start

    def read_again(self, data: bytes) -> Request | None:
        """The request that these bytes are, if its head is that of the previous one.

        The same bytes mean the same method, target, headers and length of the body.
        """
        request, size = self._previous, len(self.head)
        if request and len(data) == size + self._previous_size and data.startswith(self.head):
            request.body, request.head_read_at = data[size:], clock()
            return request
        return None

    def _begin(self) -> None:
        self.state, self.request, self._previous = HEAD, None, None
        self._head, self._target, self._headers = b"", b"", []
        self.is_head = self.body_has_begun = False

    # Head

    def _head_end(self, data: bytes, start: int) -> int:
        """The end of the head in the data; or of the data, or of what the limit allows."""
        seam = self._head[-3:]
        end = len(data)
        if seam and (found := (seam + data[start : start + 3]).find(b"\r\n\r\n")) >= 0:
            end = start + found + 4 - len(seam)
        elif (found := data.find(b"\r\n\r\n", start)) >= 0:
            end = found + 4
        return min(end, start + self._limits.head_bytes - len(self._head) + 1)

    def _read_head(self, part: bytes) -> None:
        self._head += part
        self.is_head = self._head.startswith(b"HEAD ")
        is_too_large = len(self._head) > self._limits.head_bytes
        self._feed(part)
        if is_too_large:
            self._reject(HEAD_TOO_LARGE)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.state is HEAD:  # else it is a trailer, which is no header: RFC 9110, 6.5.1
            self._headers.append((name.lower(), value.strip(b" \t")))

    def on_headers_complete(self) -> None:
        if self.state is not HEAD:
            return  # see _ignore_upgrade
        parser, headers = self._parser, self._headers
        version, method = parser.get_http_version(), parser.get_method()
        if self._is_other_protocol():
            return self._reject(NOT_HTTP)
        if rejection := check_head(version, method, self._target, headers):
            return self._reject(rejection)
        path, _, query = origin_form(self._target).partition(b"?")
        keep_alive = bool(parser.should_keep_alive())
        self.request = Request(method.decode(), path, query, version, headers, keep_alive, clock())
        self.state, self._offers_upgrade = BODY, bool(parser.should_upgrade())
        self._begin_body(self.request)

    def _is_other_protocol(self) -> bool:
        """Whether the request line names one of the other protocols that llhttp takes."""
        line = self._head.partition(b"\r\n")[0]
        return b" RTSP/" in line or b" ICE/" in line

    # Body

    def _begin_body(self, request: Request) -> None:
        self._left, self._line, self._is_chunked, self._in_trailers = 0, b"", False, False
        self._extension_bytes = self._trailer_bytes = 0
        for name, value in request.headers:
            if name == b"content-length":
                self._left = int(value)
            elif name == b"transfer-encoding":
                self._is_chunked = True
            elif name == b"expect":
                request.expects_continue = request.version == "1.1"  # RFC 9110, 10.1.1
        if self._left > self._limits.body_bytes:
            self._reject(BODY_TOO_LARGE)

    def _body_end(self, data: bytes, start: int) -> int:
        if self._left:
            return min(start + self._left, len(data))
        return data.find(b"\n", start) + 1 or len(data)

    def _read_body(self, part: bytes) -> None:
        self.body_has_begun = True
        if self._left:
            self._left -= len(part)
        elif self._in_trailers:
            self._trailer_bytes += len(part)
            if len(self._head) + self._trailer_bytes > self._limits.head_bytes:
                return self._reject(HEAD_TOO_LARGE)
        else:
            room = _SIZE_LINE - len(self._line)
            self._line += part[:room]
            self._extension_bytes += max(0, len(part) - room)
            self._check_body()
        self._feed(part)

    def _check_body(self) -> None:
        if len(self._body) + self._extension_bytes > self._limits.body_bytes:
            self._reject(BODY_TOO_LARGE)

    def on_chunk_header(self) -> None:
        size = int(self._line.partition(b";")[0], 16)
        self._line, self._in_trailers = b"", size == 0
        self._left = size + 2 if size else 0

    def on_body(self, body: bytes) -> None:
        self._body += body
        self._check_body()

    def on_message_complete(self) -> None:
        request = self.request
        if request is None or self.rejection or self._offers_upgrade:
            return
        self.state, request.is_whole = IDLE if request.keep_alive else ENDED, True
        # A trailer, which has no effect, may have ended llhttp's stream.
        self._parser_has_ended = not self._parser.should_keep_alive()
        request.body, self._body = bytes(self._body), bytearray()
        self.head = self._head if len(self._head) <= _REMEMBERED else b""
        if self.state is IDLE and self.head and not self._is_chunked:
            self._previous, self._previous_size = request, len(request.body)
        self._head, self._headers = b"", []

    # llhttp

    def _feed(self, part: bytes) -> None:
        if self.rejection:
            return
        try:
            self._parser.feed_data(part)
        except httptools.HttpParserCallbackError:
            raise  # a fault of our own
        except httptools.HttpParserUpgrade:
            self._ignore_upgrade()
        except httptools.HttpParserInvalidURLError:
            self._reject(BAD_TARGET)
        except httptools.HttpParserError as error:
            is_version = str(error) == "Invalid HTTP version" and not self._is_other_protocol()
            self._reject(OTHER_VERSION if is_version else NOT_HTTP)
        if self._parser_has_ended:
            self._parser, self._parser_has_ended = self._new_parser(), False

    def _ignore_upgrade(self) -> None:
        """Read the body of a request that offers another protocol: RFC 9110, section 7.8.

        llhttp takes what follows such a head for the other protocol. A parser that is given only
        the fields about the framing of the body does not.
        """
        request, self._offers_upgrade = self.request, False
        if request is None:
            return  # CONNECT, which is rejected
        self._parser = self._new_parser()
        framing = (b"content-length", b"transfer-encoding")
        lines = [b"%b: %b\r\n" % line for line in request.headers if line[0] in framing]
        self._parser.feed_data(b"POST / HTTP/1.1\r\n%b\r\n" % b"".join(lines))

    def _reject(self, rejection: Rejection) -> None:
        if self.rejection is None:
            self.state, self.rejection = REJECTED, rejection
            self._head, self._headers, self._body = b"", [], bytearray()
