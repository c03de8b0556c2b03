"""Which header blocks allow a GET request to be answered without uvicorn's parser."""

import re
from itertools import compress
from operator import itemgetter, ne

import httptools

from cartpole.http.head_rules import head_error

VERSION = b" HTTP/1.1\r\n"

# A header line whose name has no meaning for the framing of messages, for the connection or for
# the rules of head_rules.py: RFC 9112, section 5, and RFC 9110, section 5.5. llhttp gives meaning
# to Proxy-Connection as well.
_is_neutral = re.compile(
    rb"(?![Cc][Oo][Nn][Nn][Ee][Cc][Tt][Ii][Oo][Nn]:|[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll]|[Hh][Oo][Ss][Tt]:"
    rb"|[Tt][Rr][Aa][Nn][Ss][Ff][Ee][Rr]-|[Uu][Pp][Gg][Rr][Aa][Dd][Ee]:|[Ee][Xx][Pp][Ee][Cc][Tt]:"
    rb"|[Pp][Rr][Oo][Xx][Yy]-)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+"
).fullmatch

_MAX_LINES = 64  # of a block that is remembered


class PlainHeaders:
    """Recognises plain header blocks, also where values change with each request.

    A block is plain if it is valid, announces no body and no upgrade, and keeps the connection
    alive. llhttp and head_rules.py decide. The last plain block of each number of lines is
    remembered. A block that differs from it in neutral lines only is plain too
    (bench/micro.py: …-changed).
    """

    def __init__(self) -> None:
        self._templates: dict[int, _Template] = {}  # by number of lines

    def query_end(self, data: bytes, start: int) -> int:
        """Where the query ends in these bytes, if they are one request with a plain block.

        Returns:
            -1 if that is not plain to see; `is_plain` may still find it.
        """
        end = data.find(VERSION, start)
        if end < 0:
            return -1
        return end if self._is_like_template(data[end + len(VERSION) :].split(b"\r\n")) else -1

    def is_plain(self, block: bytes) -> bool:
        """Whether a block is plain, from its first line to its empty line."""
        lines = block.split(b"\r\n")
        if self._is_like_template(lines):
            return True
        if not _parses_as_plain(block):
            return False
        if len(lines) <= _MAX_LINES:
            self._templates[len(lines)] = _Template(lines)
        return True

    def _is_like_template(self, lines: list[bytes]) -> bool:
        template = self._templates.get(len(lines))
        return template is not None and template.matches(lines)


class _Template:
    """A plain block. Its lines that are not neutral must stay as they are."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        fixed = [number for number, line in enumerate(lines) if not _is_neutral(line)]
        self._fixed_lines = itemgetter(*fixed)  # at least two: the empty ones at the end
        self._expected = self._fixed_lines(lines)

    def matches(self, lines: list[bytes]) -> bool:
        if self._fixed_lines(lines) != self._expected:
            return False
        return all(map(_is_neutral, compress(lines, map(ne, lines, self._lines))))


def _parses_as_plain(block: bytes) -> bool:
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
