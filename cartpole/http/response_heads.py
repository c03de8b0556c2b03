"""Response heads as bytes: status line, headers, empty line."""

from collections.abc import Iterable

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from cartpole.api.responses import Headers, headers


def encode_head(status: int, lines: Iterable[tuple[bytes, bytes]]) -> bytes:
    return STATUS_LINE[status] + b"".join(b"%b: %b\r\n" % line for line in lines) + b"\r\n"


_MOST_RENEWED = 32  # sizes of answers that are expected to come again


class ResponseHeads(dict[tuple[int, int], bytes]):
    """Heads of JSON answers by status and length of the body, each encoded once.

    They hold while the default headers (the date) stay the same: a second.
    """

    def __init__(self, default: Headers) -> None:
        self.default = default

    def renewed(self, default: Headers) -> "ResponseHeads":
        """The same heads with other default headers."""
        heads = ResponseHeads(default)
        for key in list(self)[:_MOST_RENEWED]:
            heads[key]
        return heads

    def __missing__(self, key: tuple[int, int]) -> bytes:
        status, size = key
        self[key] = encode_head(status, [*self.default, *headers(size)])
        return self[key]
