"""A request's body: received whole, decompressed, and bounded before and after that."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass

from starlette.types import Receive

from cartpole.api.content_codings import WINDOW_BITS
from cartpole.api.responses import Headers

BODY_BYTES = 1024 * 1024  # the default bound
HEADER_LENGTH = b"inference-header-content-length"
ACCEPTED_CODINGS = (b"accept-encoding", b"gzip, deflate")

_MEANING = {"x-gzip": "gzip", "identity": ""}  # RFC 9110, sections 8.4.1.3 and 12.5.3


class RequestError(Exception):
    """The request can't be answered as it is. The text says what is wrong with it.

    Attributes:
        status: of the answer.
        lines: header lines of the answer, beside those of any body.
    """

    def __init__(self, status: int, text: str, lines: Headers | None = None) -> None:
        super().__init__(text)
        self.status, self.lines = status, lines or []


class ClientGone(Exception):
    """The client has closed the connection before its request was whole."""


@dataclass(slots=True)
class BodyHead:
    """The headers that say how a request's body is to be read, and answered.

    Attributes:
        coding: of the body, gzip or deflate; empty if it is not coded.
        json_size: Inference-Header-Content-Length, as it was sent; None without it.
        accepted: Accept-Encoding; empty without it.
    """

    coding: str = ""
    json_size: bytes | None = None
    accepted: bytes = b""


def read_head(headers: Iterable[tuple[bytes, bytes]]) -> BodyHead:
    """Read the headers of a request, whose names are in lower case.

    Raises:
        RequestError: the coding is not supported (415), or a header is given twice (400).
    """
    head, codings = BodyHead(), []
    for name, value in headers:
        if name == b"content-encoding":
            codings.append(value.strip(b" \t").lower().decode("latin-1"))
        elif name == HEADER_LENGTH:
            if head.json_size is not None:
                raise RequestError(400, "Inference-Header-Content-Length is given more than once")
            head.json_size = value.strip(b" \t")
        elif name == b"accept-encoding":
            head.accepted += b"," + value
    coding = ", ".join(filter(None, codings))
    head.coding = _MEANING.get(coding, coding)
    if head.coding and head.coding not in WINDOW_BITS:
        text = "the content coding is not supported, only gzip and deflate are"
        raise RequestError(415, text, [ACCEPTED_CODINGS])
    return head


async def receive_body(receive: Receive, limit: int) -> bytes:
    """The whole body.

    Raises:
        RequestError: it has more bytes than the limit (413).
        ClientGone: the client has gone before the end.
    """
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        part: bytes = message.get("body", b"")
        if len(body) + len(part) > limit:
            raise _too_large(limit)
        if not message.get("more_body", False):
            return bytes(body) + part if body else part
        body += part


def decompress(body: bytes, coding: str, limit: int) -> bytes:
    """The body without its coding.

    Raises:
        RequestError: it has more bytes than the limit then (413); or it is not exactly one whole
            stream of the coding (400).
    """
    if not coding:
        return body
    decompressor = zlib.decompressobj(WINDOW_BITS[coding])
    try:
        found = decompressor.decompress(body, limit + 1)
    except zlib.error:
        raise RequestError(400, f"the body is not valid {coding}") from None
    if len(found) > limit:
        raise _too_large(limit, " after decompression")
    if not decompressor.eof:
        raise RequestError(400, f"the body ends within its {coding} stream")
    if decompressor.unused_data:
        raise RequestError(400, f"bytes follow the {coding} stream of the body")
    return found


def _too_large(limit: int, when: str = "") -> RequestError:
    return RequestError(413, f"the request body is larger than {limit} bytes{when}")
