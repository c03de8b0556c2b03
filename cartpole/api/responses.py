"""Logits or an error to a JSON body and its headers; constant bytes are built at start-up."""

from orjson import dumps

NO_SNIFF = (b"x-content-type-options", b"nosniff")
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


def headers(size: int, content_type: bytes = b"application/json") -> Headers:
    """The headers of a body of so many bytes."""
    return [(b"content-type", content_type), NO_SNIFF, (b"content-length", b"%d" % size)]
