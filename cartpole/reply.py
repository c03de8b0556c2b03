"""Logits or an error to a JSON body and its headers; constant bytes are built at start-up."""

from orjson import dumps

CONTENT_TYPE = (b"content-type", b"application/json")
CLOSE = (b"connection", b"close")

Headers = list[tuple[bytes, bytes]]


def render(left: float, right: float) -> bytes:
    """{"left":L,"right":R}, each the shortest decimal that reads back as the same double.

    Logits that are not finite, which only observations near the end of float32 can bring about,
    are rendered as null.
    """
    return dumps({"left": left, "right": right})


def render_error(message: str) -> bytes:
    return dumps({"error": message})


def headers(size: int) -> Headers:
    """The headers of a body of so many bytes."""
    return [CONTENT_TYPE, (b"content-length", b"%d" % size)]
