"""JSON bodies and their headers, and how an ASGI endpoint sends them."""

from orjson import dumps
from starlette.types import Scope, Send

Headers = list[tuple[bytes, bytes]]
Answer = tuple[int, bytes]  # status and JSON body

NO_SNIFF = (b"x-content-type-options", b"nosniff")


def render(left: float, right: float) -> bytes:
    """{"left":L,"right":R}, each the shortest decimal that reads back as the same double.

    A logit that is not finite becomes null. Only observations near the end of float32's range can
    cause that.
    """
    return dumps({"left": left, "right": right})


def render_error(message: str) -> bytes:
    return dumps({"error": message})


INTERNAL_ERROR: Answer = 500, render_error("internal error")


def headers(size: int, content_type: bytes = b"application/json") -> Headers:
    """The headers of a body of `size` bytes."""
    return [(b"content-type", content_type), NO_SNIFF, (b"content-length", b"%d" % size)]


async def respond(
    scope: Scope, send: Send, status: int, body: bytes, lines: Headers | None = None
) -> None:
    """Send a whole response. A HEAD request gets the headers only."""
    lines = lines or headers(len(body))
    await send({"type": "http.response.start", "status": status, "headers": lines})
    await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})
