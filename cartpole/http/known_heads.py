"""Header blocks that the reader has found harmless: with them, GET requests need no parser."""

import re
from itertools import compress
from operator import itemgetter, ne

from cartpole.api.observation import parse_usual
from cartpole.http.responses import KEPT, LAST
from cartpole.predictor import Observation

TARGET = b"GET /inference?"

# A header line whose name has no meaning for the framing of messages, for the connection or for
# the rules of head_rules.py: RFC 9112, section 5, and RFC 9110, section 5.5. llhttp gives meaning
# to Proxy-Connection as well. No possessive quantifier on a group: Python 3.11 before 3.11.5 counts
# what a repetition consumed that failed (CPython's issue 106052).
_NEUTRAL_LINE = (
    rb"(?![Cc][Oo][Nn][Nn][Ee][Cc][Tt][Ii][Oo][Nn]:|[Cc][Oo][Nn][Tt][Ee][Nn][Tt]-[Ll]|[Hh][Oo][Ss][Tt]:"
    rb"|[Tt][Rr][Aa][Nn][Ss][Ff][Ee][Rr]-|[Uu][Pp][Gg][Rr][Aa][Dd][Ee]:|[Ee][Xx][Pp][Ee][Cc][Tt]:"
    rb"|[Pp][Rr][Oo][Xx][Yy]-)"
    rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[\t -~\x80-\xff]*+"
)
_is_neutral = re.compile(_NEUTRAL_LINE).fullmatch
_are_neutral = re.compile(rb"%b(?:\r\n%b)*" % (_NEUTRAL_LINE, _NEUTRAL_LINE)).fullmatch

_MOST_LINES = 64  # of a block that is remembered


class KnownHeads:
    """Recognises header blocks, also where values change with each request.

    A block begins after the request target, with b" HTTP/1.1\\r\\n", and ends with its empty line.
    The last one of each number of lines and each persistence is remembered. A block that differs
    from it in neutral lines only is known too (bench/micro.py: …-changed).
    """

    def __init__(self) -> None:
        self._templates: dict[int, dict[bytes, _Template]] = {}  # by lines, then persistence
        self._last: (
            bytes | tuple[bytes, ...]
        ) = ()  # most last requests have the block of the previous one
        # Of the latest block that differed from its template: up to the first line that did, from
        # the end of the last one that did, and its persistence.
        self._gap = b"\0", b"\0", KEPT

    def find(self, data: bytes) -> tuple[int, bytes]:
        """Where the query ends in bytes that begin with TARGET, if they are one known request.

        Returns:
            That place, and the persistence of the connection; (-1, b"") for any other bytes.
        """
        if data.endswith(self._last):
            return len(data) - len(self._last), LAST
        end = data.find(b" HTTP/1.", len(TARGET))
        if end < 0:
            return -1, KEPT
        first, rest, persistence = self._gap
        is_similar = data.startswith(first, end) and data.endswith(rest)
        if is_similar and _are_neutral(data, end + len(first), len(data) - len(rest)):
            return end, persistence
        block = data[end:]
        known = self._recall(block.split(b"\r\n"))
        if known is LAST:
            self._last = block
        return (-1, KEPT) if known is None else (end, known)

    def first(self, data: bytes, start: int, limit: int) -> tuple[Observation, bytes, int] | None:
        """The first request of several, if it is a usual one with a known block.

        Args:
            data: data[start:] begins with TARGET.
            limit: bytes of a head.

        Returns:
            What it asks, the persistence of the connection, and where it ends.
        """
        end = data.find(b"\r\n\r\n", start) + 4
        if not start < end <= start + limit:
            return None
        query_end, persistence = self.find(data[start:end])
        observation = parse_usual(data, start + len(TARGET), start + query_end)
        return observation and (observation, persistence, end)

    def learn(self, head: bytes, persistence: bytes) -> None:
        """Remember the block of a GET request that has no body; others are ignored."""
        end = head.find(b" HTTP/1.", len(TARGET))
        lines = head[end:].split(b"\r\n")
        if head.startswith(TARGET) and end > 0 and len(lines) <= _MOST_LINES:
            self._templates.setdefault(len(lines), {})[persistence] = _Template(lines)

    def _recall(self, lines: list[bytes]) -> bytes | None:
        for persistence, template in self._templates.get(len(lines), {}).items():
            if template.matches(lines):
                if gap := template.gap(lines):
                    self._gap = (*gap, persistence)
                return persistence
        return None


class _Template:
    """A plain block. Its lines that are not neutral must stay as they are."""

    def __init__(self, lines: list[bytes]) -> None:
        self._lines = lines
        fixed = [number for number, line in enumerate(lines) if not _is_neutral(line)]
        self._fixed_lines = itemgetter(*fixed)  # the version, and the empty ones at the end
        self._expected = self._fixed_lines(lines)

    def matches(self, lines: list[bytes]) -> bool:
        if self._fixed_lines(lines) != self._expected:
            return False
        return all(map(_is_neutral, compress(lines, map(ne, lines, self._lines))))

    def gap(self, lines: list[bytes]) -> tuple[bytes, bytes] | None:
        """The bytes around the lines that differ; None unless all lines between are neutral."""
        changed = [number for number, line in enumerate(lines) if line != self._lines[number]]
        if not changed or not all(map(_is_neutral, lines[changed[0] : changed[-1] + 1])):
            return None
        before, behind = lines[: changed[0]], lines[changed[-1] + 1 :]
        return b"\r\n".join([*before, b""]), b"\r\n".join([b"", *behind])
