"""Resident memory stays bounded, whatever clients pipeline and leave unread."""

import gzip
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.server import Server
from tests.support.clients import connect, read_answer
from tests.support.corpus import USUAL, request
from tests.support.metrics import scrape
from tests.support.processes import resident
from tests.support.transports import (
    KINDS,
    LAST,
    UnixServer,
    ask,
    connect_narrow,
    post,
    serving_over,
)
from tests.support.v2 import INFER, infer, tensor

GROWTH_KIB = 16 * 1024  # of some 260 MiB in all
IDLE_KIB = 40  # for a connection that sent a large head, beyond what it takes after a small one
BLOCKED = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)
PAGE = request("", start="GET / HTTP/1.1{}")


@pytest.fixture(scope="module", params=KINDS)
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Server]:
    flags = ("--keep-alive", "2", "--log-level", "error")
    with serving_over(request.param, certificate, *flags) as running:
        ask(running, compressed() * 10 + large() + PAGE * 10 + USUAL * 10 + LAST)  # warm up
        yield running


def compressed() -> bytes:
    """A small request that enters the application."""
    return post(gzip.compress(b"[[0,0,-1,0]]"), "Content-Encoding: gzip")


def large() -> bytes:
    """A request whose answer has some 240 KB."""
    return post(infer(tensor(4096, data=[0.1, -0.2, 0.3, 0.4] * 4096)), path=INFER)


def pump(client: socket.socket, piece: bytes, size: int, reads: bool) -> None:
    """Send pieces of `size` bytes in all, until nothing moves or some seconds have passed."""
    client.setblocking(False)
    view, sent = memoryview(piece), 0
    now = moved_at = time.monotonic()
    until = now + 3
    while sent < size and now < until and now < moved_at + 1:
        with suppress(*BLOCKED):
            sent += client.send(view[sent % len(piece) :])
            moved_at = now
        if reads:
            with suppress(*BLOCKED):
                moved_at = now if client.recv(65536) else 0
        now = time.monotonic()


@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
def test_a_client_that_pipelines_what_takes_long(server: Server, reads: bool) -> None:
    before = resident(server)
    with connect(server) as client, suppress(ConnectionError, ssl.SSLError):
        pump(client, compressed() * 1000, 60_000 * len(compressed()), reads)
    assert resident(server) < before + GROWTH_KIB


def test_a_client_that_asks_on_and_never_reads(server: Server) -> None:
    """It is disconnected although it is never idle."""
    before, gone = resident(server), False
    with connect_narrow(server) as client:
        for _ in range(1 + isinstance(server, UnixServer)):  # whose kernel buffers the first answer
            client.sendall(large())
            time.sleep(0.2)
        client.setblocking(False)
        until = time.monotonic() + 10
        while not gone and time.monotonic() < until:
            try:
                client.send(USUAL)
            except BLOCKED:
                pass
            except OSError:
                gone = True
            time.sleep(0.005)  # the server reads each on its own
    assert gone
    assert resident(server) < before + GROWTH_KIB


def test_pages_asked_for_in_one_segment_and_not_read(server: Server) -> None:
    before = resident(server)
    with ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(connect(server))
            client.settimeout(1)
            with suppress(OSError):  # it reads no more
                client.sendall(PAGE * 2900)
        time.sleep(0.5)
        assert resident(server) < before + GROWTH_KIB


def test_idle_connections_that_sent_many_fields(server: Server) -> None:
    fields = request("", *["a:b"] * 2700, start="GET /health/live HTTP/1.1{}")
    with ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(60)]
        grown = []
        for sent in (USUAL, fields):
            for client in clients:
                client.sendall(sent)
                assert read_answer(client).startswith(b"HTTP/1.1 200 ")
            grown.append(resident(server))
        assert scrape(server)["cartpole_connections_open", ()] > len(clients)
    assert grown[1] - grown[0] < IDLE_KIB * len(clients)
