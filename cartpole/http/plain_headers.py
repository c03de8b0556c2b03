"""Which header blocks allow a GET request to be answered without uvicorn's parser."""

import re
from enum import Enum
from itertools import compress
from operator import itemgetter, ne

import httptools

from cartpole.http.head_rules import head_error

# A header line whose name has no meaning for the framing of messages, for the connection or for
# the rules of head_rules.py: RFC 9112, section 5, and RFC 9110, section 5.5. llhttp gives meaning
# to Proxy-Connection as well.
NEUTRAL_LINE = (
    rb"(?![Cc][Oo][Nn][Nn][Ee][Cc][Tt][Ii][Oo][Nn]:|[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll]|[Hh][Oo][Ss][Tt]:"
    rb"|[Tt][Rr][Aa][Nn][Ss][Ff][Ee][Rr]-|[Uu][Pp][Gg][Rr][Aa][Dd][Ee]:|[Ee][Xx][Pp][Ee][Cc][Tt]:"
    rb"|[Pp][Rr][Oo][Xx][Yy]-)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+"
)
is_neutral = re.compile(NEUTRAL_LINE).fullmatch

_MAX_LINES = 64  # of a block that is remembered


class Plain(Enum):
    """The two kinds of plain blocks."""

    KEPT = "the connection stays open"
    LAST = "the answer is the last on the connection"


class PlainHeaders:
    """Recognises plain header blocks, also where values change with each request.

    A block begins after the request target, with b" HTTP/1.1\\r\\n", and ends with its empty line.
    It is plain if it is valid and announces no body and no upgrade. llhttp and head_rules.py
    decide. The last plain block of each number of lines is remembered. A block that differs from
    it in neutral lines only is plain too (bench/micro.py: …-changed).
    """

    def __init__(self) -> None:
        # By number of lines. Blocks of last requests have a table of their own, so that both kinds
        # can be usual at the same time.
        self._kept: dict[int, _Template] = {}
        self._last: dict[int, _Template] = {}
        self._latest_last = b"\0"  # most last requests have the block of the previous one

    def query_end(self, data: bytes, start: int) -> int:
        """Where the query ends in these bytes, if they are one request with a plain block.

        Returns:
            -1 if that is not plain to see, or if the request is the last; `classify` may find more.
        """
        end = data.find(b" HTTP/1.", start)
        return end if end > 0 and _is_known(data[end:].split(b"\r\n"), self._kept) else -1

    def last_query_end(self, data: bytes, start: int) -> int:
        """The same for a request that is its connection's last."""
        if data.endswith(self._latest_last):
            return len(data) - len(self._latest_last)
        end = data.find(b" HTTP/1.", start)
        if end < 0 or not _is_known(data[end:].split(b"\r\n"), self._last):
            return -1
        self._latest_last = data[end:]
        return end

    def classify(self, block: bytes) -> Plain | None:
        """The kind of a block, or None if it isn't plain."""
        lines = block.split(b"\r\n")
        if _is_known(lines, self._kept):
            return Plain.KEPT
        if _is_known(lines, self._last):
            return Plain.LAST
        plain = _parse(block)
        if plain and len(lines) <= _MAX_LINES:
            templates = self._kept if plain is Plain.KEPT else self._last
            templates[len(lines)] = _Template(lines)
        return plain


class _Template:
    """A plain block. Its lines that are not neutral must stay as they are."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        fixed = [number for number, line in enumerate(lines) if not is_neutral(line)]
        self._fixed_lines = itemgetter(*fixed)  # the version, and the empty ones at the end
        self._expected = self._fixed_lines(lines)

    def matches(self, lines: list[bytes]) -> bool:
        if self._fixed_lines(lines) != self._expected:
            return False
        return all(map(is_neutral, compress(lines, map(ne, lines, self._lines))))


def _is_known(lines: list[bytes], templates: dict[int, _Template]) -> bool:
    template = templates.get(len(lines))
    return template is not None and template.matches(lines)


def _parse(block: bytes) -> Plain | None:
    headers = _Headers()
    try:
        headers.parser.feed_data(b"GET /" + block)
        version = headers.parser.get_http_version()
    except (httptools.HttpParserError, httptools.HttpParserUpgrade):
        return None
    if not headers.is_complete or head_error(version, b"GET", b"/", headers.lines):
        return None
    # uvicorn closes every connection of HTTP/1.0.
    return Plain.KEPT if headers.keep_alive and version == "1.1" else Plain.LAST


class _Headers:
    """Parses one header block with llhttp.

    Attributes:
        lines: names in lower case, and values.
        is_complete: the request has no body.
        keep_alive: its connection stays open.
    """

    def __init__(self) -> None:
        self.lines: list[tuple[bytes, bytes]] = []
        self.is_complete = self.keep_alive = False
        self.parser = httptools.HttpRequestParser(self)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.lines.append((name.lower(), value))

    def on_message_complete(self) -> None:
        # A request with a body does not complete here. Later llhttp would not know any more.
        self.is_complete, self.keep_alive = True, bool(self.parser.should_keep_alive())
