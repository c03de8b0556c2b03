"""Everything that cartpole/http/reader.py relies on in httptools, and in llhttp beneath it."""

from typing import Any

import httptools
import pytest


class Events:
    """The events of a parser, which is given these parts."""

    def __init__(self, *parts: bytes) -> None:
        self.seen: list[Any] = []
        self.parser = httptools.HttpRequestParser(self)
        for part in parts:
            self.parser.feed_data(part)

    def on_url(self, url: bytes) -> None:
        self.seen.append(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.seen.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        self.seen.append(("head", parser.should_keep_alive(), parser.should_upgrade()))

    def on_chunk_header(self) -> None:
        self.seen.append("chunk")

    def on_body(self, body: bytes) -> None:
        self.seen.append(body)

    def on_message_complete(self) -> None:
        self.seen.append(("end", self.parser.should_keep_alive()))


CHUNKED = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_whole_head_has_all_its_events() -> None:
    found = Events(b"GET /a?b HTTP/1.1\r\nX: y\r\n\r\n")
    assert found.seen == [b"/a?b", (b"X", b"y"), ("head", True, False), ("end", True)]
    assert (found.parser.get_method(), found.parser.get_http_version()) == (b"GET", "1.1")


def test_white_space_is_left_behind_a_value() -> None:
    assert Events(b"GET / HTTP/1.1\r\nX: \t y \t\r\n\r\n").seen[1] == (b"X", b"y \t")


def test_an_offer_to_upgrade_ends_at_its_head() -> None:
    head = b"POST / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: a\r\nContent-Length: 3\r\n\r\n"
    with pytest.raises(httptools.HttpParserUpgrade) as caught:
        Events(head + b"abc")
    assert caught.value.args == (len(head),)


def test_a_chunks_size_is_complete_with_its_line() -> None:
    found = Events(CHUNKED, b"3;a\r", b"\n")
    assert found.seen[-1] == "chunk"
    for part, last in ((b"abc", b"abc"), (b"\r\n", b"abc"), (b"0\r\n", "chunk")):
        found.parser.feed_data(part)
        assert found.seen[-1] == last
    found.parser.feed_data(b"X: y\r\n")
    found.parser.feed_data(b"\r\n")
    assert found.seen[-2:] == [(b"X", b"y"), ("end", True)]


@pytest.mark.parametrize("name", [b"Connection", b"Proxy-Connection"])
def test_a_trailer_ends_the_stream(name: bytes) -> None:
    found = Events(CHUNKED, b"0\r\n", name + b": close\r\n\r\n")
    assert ("head", True, False) in found.seen
    assert found.seen[-1] == ("end", False)
    with pytest.raises(httptools.HttpParserError):
        found.parser.feed_data(b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("line", "version"),
    [(b"GET / HTTP/1.0", "1.0"), (b"GET / HTTP/2.0", "2.0"), (b"GET /", "0.9"),
     (b"GET / RTSP/1.0", "1.0"), (b"SOURCE / ICE/1.0", "1.0")],
)  # fmt: skip
def test_versions_and_protocols_that_it_takes(line: bytes, version: str) -> None:
    assert Events(line + b"\r\n\r\n").parser.get_http_version() == version


def test_errors_that_are_told_apart() -> None:
    with pytest.raises(httptools.HttpParserError, match=r"^Invalid HTTP version$"):
        Events(b"GET / HTTP/1.2\r\n\r\n")
    for target in (b"x", b"/\x01", b"/\xff"):
        with pytest.raises(httptools.HttpParserInvalidURLError):
            Events(b"GET " + target + b" HTTP/1.1\r\n\r\n")
    assert not issubclass(httptools.HttpParserUpgrade, httptools.HttpParserError)


def test_an_error_of_a_callback_is_none_of_the_clients() -> None:
    class Failing(Events):
        def on_url(self, url: bytes) -> None:
            raise RuntimeError("not today")

    with pytest.raises(httptools.HttpParserCallbackError):
        Failing(b"GET / HTTP/1.1\r\n\r\n")
