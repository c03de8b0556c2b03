"""Response heads as bytes: status line, headers, empty line."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cartpole.api.responses import Headers, headers


def encode_head(status: int, lines: Iterable[tuple[bytes, bytes]]) -> bytes:
    return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"


class ResponseHeads(dict[tuple[int, int], bytes]):
    """Heads of JSON answers by status and length of the body, each encoded once.

    They hold while the default headers (the date) stay the same: a second.
    """

    def __init__(self, default: Headers) -> None:
        self.default = default

    def __missing__(self, key: tuple[int, int]) -> bytes:
        status, size = key
        self[key] = encode_head(status, [*self.default, *headers(size)])
        return self[key]
