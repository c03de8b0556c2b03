"""Bodies: bounded in memory too, and the headers that say how they are read."""

import gzip
import tracemalloc
import zlib

import pytest

from cartpole.api.request_bodies import BodyHead, RequestError, decompress, read_head

LIMIT = 100_000


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_a_bomb_takes_no_memory(coding: str) -> None:
    compressor = zlib.compressobj(9, wbits=15 if coding == "deflate" else 31)
    bomb = compressor.compress(bytes(100_000_000)) + compressor.flush()
    tracemalloc.start()
    try:
        with pytest.raises(RequestError, match="larger than 100000 bytes after decompression"):
            decompress(bomb, coding, LIMIT)
        assert tracemalloc.get_traced_memory()[1] < 10 * LIMIT
    finally:
        tracemalloc.stop()


def test_the_limit_is_exact() -> None:
    assert decompress(gzip.compress(bytes(LIMIT)), "gzip", LIMIT) == bytes(LIMIT)
    with pytest.raises(RequestError) as raised:
        decompress(gzip.compress(bytes(LIMIT + 1)), "gzip", LIMIT)
    assert raised.value.status == 413


def test_every_prefix_of_a_stream_is_refused() -> None:
    whole = gzip.compress(b"abc" * 30)
    for size in range(len(whole)):
        with pytest.raises(RequestError, match="ends within its gzip stream"):
            decompress(whole[:size], "gzip", LIMIT)


def test_heads() -> None:
    lines = [
        (b"host", b"x"),
        (b"content-encoding", b" GZip\t"),
        (b"accept-encoding", b"br"),
        (b"inference-header-content-length", b" 12 "),
        (b"accept-encoding", b"gzip"),
    ]
    assert read_head(lines) == BodyHead("gzip", b"12", b",br,gzip")
    assert read_head([(b"content-encoding", b"identity")]) == BodyHead()
    assert read_head([]) == BodyHead()
