"""The size of the request that is being read, held against the limits."""

from http import HTTPStatus

from cartpole.http.limits import ClientLimits

HEAD_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
BODY_TOO_LARGE = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class MessageSizes:
    """Counts the bytes of one connection's current request. Methods return a status to reject with.

    The parser reports a header line once it is complete. Bytes of an unfinished line are counted
    separately, as that line could be endless.
    """

    __slots__ = ("_began_in_read", "_body", "_body_in_read", "_head", "_limits", "_unparsed_head")

    def __init__(self, limits: ClientLimits) -> None:
        self._limits = limits
        self._head = self._unparsed_head = self._body = 0
        # Events of the parser in the bytes of the current read.
        self._began_in_read = self._body_in_read = False

    def begin_read(self) -> None:
        self._began_in_read = self._body_in_read = False

    def begin_message(self) -> None:
        self._head = self._unparsed_head = self._body = 0
        self._began_in_read = True

    def add_head(self, size: int) -> HTTPStatus | None:
        """Part of a head, of `size` bytes, was parsed."""
        self._head += size
        return HEAD_TOO_LARGE if self._head > self._limits.head_bytes else None

    def add_body(self, size: int) -> HTTPStatus | None:
        """Part of a body, of `size` bytes, was parsed."""
        self._body_in_read = True
        return self._grow_body(size)

    def end_read(self, data: bytes, in_head: bool, was_in_body: bool) -> HTTPStatus | None:
        """The parser was given these bytes.

        Args:
            in_head: a head is not complete yet.
            was_in_body: the bytes began inside a body.
        """
        if in_head:
            return self._count_unparsed_head(data)
        if was_in_body and not (self._began_in_read or self._body_in_read):
            return self._grow_body(len(data))  # framing of chunks, which the parser does not report
        return None

    def _grow_body(self, size: int) -> HTTPStatus | None:
        self._body += size
        return BODY_TOO_LARGE if self._body > self._limits.body_bytes else None

    def _count_unparsed_head(self, data: bytes) -> HTTPStatus | None:
        if not self._began_in_read:
            self._unparsed_head += len(data)
        elif not self._body_in_read:
            self._unparsed_head = len(data) - data.rfind(b"\n") - 1
        return HEAD_TOO_LARGE if self._unparsed_head > self._limits.head_bytes else None
