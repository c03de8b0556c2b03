"""Random sequences of requests for one connection: good, bad and odd ones, cut anywhere."""

import gzip
import json
import zlib
from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import NamedTuple

from tests.fuzz.vocabulary import (
    BAD,
    CHUNKS,
    CONNECTION,
    JSON,
    NAMES,
    NEUTRAL,
    NUMBERS,
    PARAMETERS,
    STARTS,
    TRAILERS,
    UPGRADE,
    VERSIONS,
)
from tests.support.v2 import INFER, binary, infer, pack, tensor, wanted

HEAD_BYTES, BODY_BYTES = 2000, 20_000  # the limits of the service; sizes here are not near them


class Item(NamedTuple):
    """A part of a sequence, usually a request.

    Attributes:
        is_whole: gets one final answer, unless the connection has ended before it.
        is_atomic: must arrive at once, as its answer may depend on that.
        is_good: the answer has status 200.
    """

    data: bytes
    is_whole: bool = True
    is_atomic: bool = False
    is_good: bool = False


class Sequence(NamedTuple):
    """What a client sends on a connection.

    Attributes:
        parts: one write each.
        pause: between them, in seconds.
        asks_in_turn: the client waits for an answer after each part.
        half_closes: the client half-closes at its end, else the last request closes.
    """

    items: list[Item]
    parts: list[bytes]
    pause: float
    asks_in_turn: bool
    half_closes: bool


class Generator:
    """Makes a sequence from a seed."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        self._choose, self._chance = self._random.choice, self._random.random
        self._fields = [b"Host: a", *self._random.sample(NEUTRAL, self._random.randrange(4))]

    def sequence(self) -> Sequence:
        items = [self._item() for _ in range(self._random.randrange(1, 7))]
        is_whole = all(item.is_whole for item in items)
        half_closes = not is_whole or self._chance() < 0.4
        if not half_closes:
            last = b"GET /health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            items.append(Item(last))
        asks_in_turn = is_whole and self._chance() < 0.4
        parts = [item.data for item in items] if asks_in_turn else self._cut(items)
        pause = 0.0005 if self._chance() < 0.03 else 0.0
        return Sequence(items, parts, pause, asks_in_turn, half_closes)

    def _cut(self, items: list[Item]) -> list[bytes]:
        """The bytes of the items in any segments, but atomic items within one."""
        parts, joins, cuts = [b""], self._choose([0, 0.5, 1]), self._choose([0, 1, 4])
        for item in items:
            ends = [0, *self._positions(item, cuts), len(item.data)]
            for start, end in pairwise(ends):
                if self._chance() >= joins:
                    parts.append(b"")
                parts[-1] += item.data[start:end]
        return [part for part in parts if part]

    def _positions(self, item: Item, cuts: int) -> list[int]:
        count = 0 if item.is_atomic else cuts
        return sorted(self._random.randrange(len(item.data)) for _ in range(count))

    # Items

    def _item(self) -> Item:
        kinds: list[Callable[[], Item]] = [self._inference, self._post, self._other, self._strange]
        item = self._random.choices(kinds, [45, 25, 20, 10])[0]()
        if self._chance() < 0.03:
            item = item._replace(data=b"\r\n" * self._random.randrange(1, 4) + item.data)
        return item

    def _inference(self) -> Item:
        pairs = [name + b"=" + self._number() for name in NAMES]
        if self._chance() < 0.1:
            self._random.shuffle(pairs)
        if self._chance() < 0.05:
            pairs.pop()
        while self._chance() < 0.08:
            pairs.insert(self._random.randrange(len(pairs) + 1), self._choose(PARAMETERS))
        return Item(self._head(b"GET /inference?" + b"&".join(pairs)))

    def _number(self) -> bytes:
        usual = self._chance() < 0.97
        return b"%.4f" % self._random.uniform(-2, 2) if usual else self._choose(NUMBERS)

    def _other(self) -> Item:
        start = self._choose(STARTS)
        if self._chance() < 0.1:
            return self._with_body(start, b"hello")
        return Item(self._head(start))

    def _post(self) -> Item:
        rows = [[self._random.uniform(-2, 2) for _ in range(4)] for _ in range(self._size())]
        target, lines, is_good = b"/inference", [], True
        if self._chance() < 0.2:
            body, is_good = self._choose(JSON), False
        elif self._chance() < 0.5:
            body = json.dumps({"observations": rows}).encode()
        elif self._chance() < 0.5:
            target = INFER.encode()
            outputs = self._choose([None, wanted("action"), wanted("logits", binary_data=False)])
            values = [value for row in rows for value in row]
            body = infer(tensor(len(rows), data=values), **{"outputs": outputs} if outputs else {})
        else:
            target = INFER.encode()
            body, (name, size) = binary(pack(rows), len(rows))
            lines = [name + b": " + size]
        if self._chance() < 0.2:
            coding, body, is_valid = self._coded(body)
            lines.append(b"Content-Encoding: " + coding)
            is_good = is_good and is_valid
        if self._chance() < 0.1:
            target, is_good = self._choose([b"/health/live", b"/nothing"]), False
        item = self._with_body(b"POST " + target, body, *lines)
        return item._replace(is_good=is_good and not self._is_odd)

    def _size(self) -> int:
        return self._random.choices([1, 3, 100], [70, 25, 5])[0]

    def _coded(self, body: bytes) -> tuple[bytes, bytes, bool]:
        """A content coding, the coded body, and whether it is valid."""
        packed = gzip.compress(body, 1, mtime=0)
        good = [(b"gzip", packed, True), (b"deflate", zlib.compress(body), True)]
        bad = [(b"br", body, False), (b"x-gzip", body, False), (b"gzip", packed[:-3], False)]
        return self._choose([*good, *bad, (b"gzip", packed + b"x", False)])

    def _with_body(self, start: bytes, body: bytes, *lines: bytes) -> Item:
        framing = b"Content-Length: %d" % len(body)
        if self._chance() < 0.4:
            framing, body = b"Transfer-Encoding: chunked", self._chunked(body)
        extra, is_atomic = [*lines, framing], self._chance() < 0.1
        if is_atomic:
            extra.append(b"Expect: 100-continue")
        self._random.shuffle(extra)
        return Item(self._head(start, *extra) + body, is_atomic=is_atomic)

    def _chunked(self, body: bytes) -> bytes:
        chunks = []
        while body:
            size = self._random.randrange(1, 1 + self._choose([4, len(body), len(body)]))
            chunk, body = body[:size], body[size:]
            chunks.append(self._choose([b"%x", b"%X", b"0%x"]) % len(chunk) + self._extension())
            chunks.append(chunk)
        trailers = [self._choose(TRAILERS)] if self._chance() < 0.3 else []
        return b"\r\n".join([*chunks, b"0" + self._extension(), *trailers, b"", b""])

    def _extension(self) -> bytes:
        return self._choose([b";a", b';a=b;c="d e"', b";a=1"]) if self._chance() < 0.1 else b""

    def _head(self, start: bytes, *extra: bytes) -> bytes:
        fields = [*self._fields, *extra]
        if self._chance() < 0.2:
            fields.append(b"traceparent: 00-%d" % self._random.randrange(10**9))
        self._is_odd = self._chance() < 0.1
        odds = [(UPGRADE, 0.05), (BAD, 0.3 * self._is_odd)]
        for lines, chance in [(NEUTRAL, 0.1), (CONNECTION, 0.1), *odds]:
            if self._chance() < chance:
                fields.insert(self._random.randrange(len(fields) + 1), self._choose(lines))
        version = b"HTTP/1.1"
        if self._is_odd and self._chance() < 0.2:
            fields.remove(b"Host: a")
        if self._is_odd and self._chance() < 0.6:
            version = self._choose([b"HTTP/1.0", b"HTTP/1.0", self._choose(VERSIONS)])
        return b"\r\n".join([start + b" " + version, *fields, b"", b""])

    def _strange(self) -> Item:
        kinds = [self._large, self._broken, self._bad_chunk, self._noise]
        return self._random.choices(kinds, [30, 40, 15, 15])[0]()

    def _large(self) -> Item:
        """Well over a limit."""
        size = self._random.randrange(HEAD_BYTES * 3 // 2, HEAD_BYTES * 3)
        body = b"x" * (BODY_BYTES * 5 // 4)
        framing = (b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
        data = self._choose(
            [
                self._head(b"GET /inference?position=1&x=" + b"y" * size),
                self._head(b"GET /inference?position=1", b"X: " + b"y" * size),
                self._head(b"GET /health/live", *[b"X-Y: z"] * (size // 8)),
                self._head(b"POST /inference", framing[0]) + body,
                self._head(b"POST /inference", framing[1]) + b"%x\r\n" % len(body) + body,
                self._head(b"POST " + INFER.encode(), framing[0]),
            ]
        )
        return Item(data, is_atomic=True)

    def _broken(self) -> Item:
        """A request with a few bytes less, more or different."""
        item = self._choose([self._inference, self._post, self._other])()
        if item.is_atomic:
            return item
        start = self._random.randrange(len(item.data))
        end = self._choose([start, start + 1, start + self._random.randrange(9), len(item.data)])
        middle = self._random.randbytes(self._choose([0, 0, 1, 3]))
        return Item(item.data[:start] + middle + item.data[end:] or b"\r\n", is_whole=False)

    def _bad_chunk(self) -> Item:
        head = self._head(b"POST /inference", b"Transfer-Encoding: chunked")
        good = self._choose([b"", b"2\r\n[]\r\n"])
        return Item(head + good + self._choose(CHUNKS) + b"\r\n", is_whole=False)

    def _noise(self) -> Item:
        noise = self._random.randbytes(self._random.randrange(1, 60))
        return Item(self._choose([noise, b"\x16\x03\x01" + noise, b"\r\n"]), is_whole=False)
