"""Response heads as bytes, and whole answers to requests that reach no route."""

from collections.abc import Iterable
from http import HTTPStatus

from cartpole.api.responses import Headers, headers, render_error
from cartpole.metrics.rejections import TOO_MANY_CONNECTIONS, Rejection

# The header lines of an answer about its connection: RFC 9112, sections 9.3 and 9.6.
KEPT = b""  # in HTTP/1.1
KEPT_HTTP_1_0 = b"connection: keep-alive\r\n"
LAST = b"connection: close\r\n"

RETRY_AFTER = (b"retry-after", b"1")  # seconds

_STATUS_LINES: dict[int, bytes] = {
    status: b"HTTP/1.1 %d %b\r\n" % (status, status.phrase.encode()) for status in HTTPStatus
}


def encode_head(status: int, lines: Iterable[tuple[bytes, bytes]], persistence: bytes) -> bytes:
    """Status line, headers and empty line.

    Args:
        persistence: KEPT, KEPT_HTTP_1_0 or LAST.
    """
    fields = b"".join([b"%b: %b\r\n" % line for line in lines])
    return b"%b%b%b\r\n" % (_STATUS_LINES[status], fields, persistence)


def encode_rejection(rejection: Rejection, default: Headers, is_head: bool = False) -> bytes:
    """The last answer on a connection.

    Args:
        default: headers that every answer carries.
        is_head: the request is a HEAD, whose answer has no body: RFC 9110, section 9.3.2.
    """
    body = render_error(rejection.message)
    retry = [RETRY_AFTER] if rejection is TOO_MANY_CONNECTIONS else []
    head = encode_head(rejection.status, [*default, *headers(len(body)), *retry], LAST)
    return head if is_head else head + body


class ResponseHeads(dict[tuple[int, int, bytes], bytes]):
    """Heads of JSON answers by status, length of the body and persistence, each encoded once.

    They hold while the default headers (the date) stay the same: a second.
    """

    def __init__(self, default: Headers) -> None:
        self.default = default

    def __missing__(self, key: tuple[int, int, bytes]) -> bytes:
        status, size, persistence = key
        self[key] = encode_head(status, [*self.default, *headers(size)], persistence)
        return self[key]
