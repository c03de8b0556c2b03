"""The part of a connection's header block that changes with each request, such as traceparent."""

import re

from cartpole.http.plain_headers import NEUTRAL_LINE, is_neutral

# The rest of a neutral line, and any further ones. No possessive quantifier on a group: Python
# 3.11 before 3.11.5 counts what a repetition consumed that failed (CPython's issue 106052).
_is_gap = re.compile(rb"[\t -~\x80-\xff]*+(?:\r\n" + NEUTRAL_LINE + rb")*").fullmatch


class Gap:
    """A plain block with a gap, from the value of a neutral line to the end of one.

    Whatever neutral lines fill the gap, the block stays plain: plain_headers.py.
    """

    __slots__ = ("_end", "_start")

    def __init__(self, start: bytes, end: bytes) -> None:
        """start, end: the block up to the gap, and from the line break after it."""
        self._start, self._end = start, end

    def query_end(self, data: bytes, start: int) -> int:
        """Where the query ends in these bytes, if they are one request with such a block; or -1."""
        end = data.find(b" HTTP/1.", start)
        if (
            end > 0
            and data.startswith(self._start, end)
            and data.endswith(self._end)
            and _is_gap(data, end + len(self._start), len(data) - len(self._end))
        ):
            return end
        return -1


NO_GAP = Gap(b"\0", b"\0")  # fits no block


def gap_between(former: bytes, block: bytes) -> Gap:
    """The gap that makes these two plain blocks the same, or NO_GAP."""
    prefix, suffix = _common_prefix(former, block), _common_prefix(former[::-1], block[::-1])
    line = block.rfind(b"\r\n", 0, max(0, block.rfind(b":", 0, prefix))) + 2
    begin = block.find(b":", line) + 1
    if not is_neutral(block[line:begin]):
        return NO_GAP
    longer = len(block) - len(former)
    end = block.find(b"\r\n", max(len(block) - suffix, begin, begin + longer))
    if not (_is_gap(former, begin, end - longer) and _is_gap(block, begin, end)):
        return NO_GAP
    return Gap(block[:begin], block[end:])


def _common_prefix(first: bytes, second: bytes) -> int:
    """The length of what both begin with."""
    low, high = 0, min(len(first), len(second))
    while low < high:
        middle = (low + high + 1) // 2
        if first[:middle] == second[:middle]:
            low = middle
        else:
            high = middle - 1
    return low
