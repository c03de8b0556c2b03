"""Which header blocks allow a GET request to be answered without uvicorn's parser."""

import httptools

from cartpole.http.head_rules import head_error

VERSION = b" HTTP/1.1\r\n"

# Blocks that are remembered, for all connections together, and the longest of them: 2 MiB at most.
# Comparing a known block costs half of parsing a small one (bench/micro.py: …-compared, …-llhttp).
_MAX_BLOCKS, _MAX_BLOCK_BYTES = 1024, 2048


class HeaderCache:
    """Remembers header blocks that were parsed once, with their empty line.

    A block allows the fast path if it is valid, announces no body and no upgrade, and keeps the
    connection alive.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, bytes | None] = {}

    def end_of_request(self, block: bytes) -> bytes | None:
        """The bytes after the query of a request with this block; None if the block is not plain.

        Returning them, and not a flag, lets the next request on the connection be compared at once.
        """
        if block not in self._known:
            if len(block) > _MAX_BLOCK_BYTES:
                return None
            if len(self._known) >= _MAX_BLOCKS:
                self._known.clear()
            self._known[block] = VERSION + block if _is_plain(block) else None
        return self._known[block]


def _is_plain(block: bytes) -> bool:
    headers = _Headers()
    try:
        headers.parser.feed_data(b"GET /" + VERSION + block)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return False
    return headers.keep_alive and not head_error("1.1", b"GET", b"/", headers.lines)


class _Headers:
    """Parses one header block with llhttp.

    Attributes:
        lines: names in lower case, and values.
        keep_alive: the request is complete, has no body, and keeps the connection alive.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, bytes]] = []
        self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name.lower(), value))

    def on_message_complete(self) -> None:
        # A request with a body does not complete here. Later llhttp would not know any more.
        self.keep_alive = bool(self.parser.should_keep_alive())
