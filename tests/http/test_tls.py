"""Connections under TLS behave as without it: limits, half-closes, handshakes that hang."""

import signal
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bench.server import Server, serving
from tests.support.clients import REQUEST, connect, half_close, read_all, read_answer
from tests.support.corpus import request
from tests.support.memory import answers
from tests.support.metrics import scrape
from tests.support.paths import GOLDEN
from tests.support.waiting import wait_until

HEALTH = request(start="GET /health/ready?{} HTTP/1.1")
FLAGS = ("--head-timeout", "2", "--keep-alive", "2", "--limit-connections", "5")


class Client:
    """A TLS client that tells a close_notify from the end of the TCP connection."""

    def __init__(self, server: Server) -> None:
        assert server.tls
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=20)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = server.tls.wrap_bio(self._incoming, self._outgoing)
        self._until_done(self.tls.do_handshake)

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def _until_done(self, step: object) -> bytes:
        assert callable(step)
        while True:
            try:
                done = step()
                self.flush()
                return done if isinstance(done, bytes) else b""
            except ssl.SSLWantReadError:
                self.flush()
                more = self.socket.recv(65536)
                assert more, "the end without a close_notify"
                self._incoming.write(more)

    def flush(self) -> None:
        if self._outgoing.pending:
            self.socket.sendall(self._outgoing.read())

    def send(self, data: bytes, close_notify: bool = False) -> None:
        """In one write, with a close_notify behind it if asked for."""
        self.tls.write(data)
        if close_notify:
            with pytest.raises(ssl.SSLWantReadError):
                self.tls.unwrap()
        self.flush()

    def read_all(self) -> bytes:
        """Until the server's close_notify."""
        received = b""
        try:
            while more := self._until_done(lambda: self.tls.read(65536)):
                received += more
        except ssl.SSLZeroReturnError:
            pass
        return received


@pytest.fixture(scope="module", params=["fast", "asgi"])
def server(request: pytest.FixtureRequest, certificate: Path) -> Iterator[Server]:
    with serving("--http", request.param, *FLAGS, tls=certificate) as running:
        yield running


def stop(server: Server) -> tuple[float, str]:
    """Seconds between SIGTERM and the exit, and the log."""
    started = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=60) == 0
    assert server.process.stderr
    return time.monotonic() - started, server.process.stderr.read()


@pytest.mark.parametrize("http", ["fast", "asgi"])
def test_sigterm_with_idle_clients(http: str, certificate: Path) -> None:
    with serving("--http", http, tls=certificate) as server, ExitStack() as stack:
        clients = [stack.enter_context(connect(server)) for _ in range(5)]
        for client in clients[:3]:
            client.sendall(REQUEST)
            assert read_answer(client).startswith(b"HTTP/1.1 200 OK")
        raw = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3)]
        raw[0].sendall(b"\x16\x03\x01")
        for one in raw:
            stack.enter_context(one)
        seconds, log = stop(server)
    assert seconds < 10
    assert "ERROR" not in log and "Traceback" not in log
    assert len(log.splitlines()) == 2


def test_idle_clients_are_let_go(server: Server) -> None:
    with Client(server) as client:
        client.send(REQUEST)
        assert len(answers(client.read_all())) == 1  # and it ends with a close_notify
        client.socket.settimeout(20)
        assert client.socket.recv(1) == b""
    wait_until(lambda: scrape(server)["cartpole_connections_open", ()] == 1)


@pytest.mark.parametrize("started", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "some"])
def test_handshakes_without_end(server: Server, started: bytes) -> None:
    refused = ("cartpole_refusals_total", (("reason", "head too slow"),))
    before = scrape(server).get(refused, 0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(started)
        wait_until(lambda: scrape(server)["cartpole_connections_open", ()] == 2)
        assert client.recv(1) == b""
    assert scrape(server)[refused] == before + 1


def test_bytes_that_are_not_tls(server: Server) -> None:
    refused = ("cartpole_refusals_total", (("reason", "not valid HTTP"),))
    before = scrape(server).get(refused, 0)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(REQUEST)
        assert client.recv(100)[:1] in (b"\x15", b"")  # an alert
    assert scrape(server)[refused] == before + 1


@pytest.mark.parametrize("end", ["close_notify", "with it", "tcp"])
def test_half_close(server: Server, end: str) -> None:
    with Client(server) as client:
        client.send(REQUEST + HEALTH + REQUEST, close_notify=end == "with it")
        if end == "close_notify":
            client.send(b"", close_notify=True)
        elif end == "tcp":
            client.socket.shutdown(socket.SHUT_WR)
        assert [status for status, _ in answers(client.read_all())] == [b"200"] * 3


def test_refusals_arrive_whatever_is_still_sent(server: Server) -> None:
    with Client(server) as client:
        client.send(request(GOLDEN, "X: " + "y" * 40_000) + b"z" * 300_000)
        assert client.read_all().startswith(b"HTTP/1.1 431 ")


def test_connections_past_the_limit(server: Server) -> None:
    with ExitStack() as stack:
        inside = [stack.enter_context(connect(server)) for _ in range(5)]
        for sent, status in ((REQUEST, b"503"), (HEALTH, b"200")):
            with connect(server) as client:
                client.sendall(sent)
                assert answers(read_all(client))[0][0] == status
        inside[0].sendall(REQUEST)
        assert read_answer(inside[0]).startswith(b"HTTP/1.1 200 OK")


def test_handshakes_that_end_late_are_within_the_limit(server: Server) -> None:
    """Connections accepted below the limit are served, even if others came since."""
    assert server.tls
    with ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        sockets = [stack.enter_context(socket.create_connection(address, 20)) for _ in range(7)]
        for one in sockets[:5]:
            client = stack.enter_context(server.tls.wrap_socket(one))
            client.sendall(REQUEST)
            assert read_answer(client).startswith(b"HTTP/1.1 200 OK")


def test_a_record_that_is_no_good(server: Server) -> None:
    with connect(server) as client:
        client.sendall(REQUEST)
        assert read_answer(client).startswith(b"HTTP/1.1 200 OK")
        raw = socket.socket(fileno=client.detach())
        with raw:
            raw.settimeout(20)
            raw.sendall(b"\x17\x03\x03\x00\x20" + b"x" * 32)
            while raw.recv(4096):
                pass
    with connect(server) as client:
        half_close(client)
        assert read_all(client) == b""


def test_tls_1_2(server: Server) -> None:
    assert server.tls
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with Client(Server(server.process, server.port, context)) as client:
        client.send(REQUEST * 3, close_notify=True)
        assert len(answers(client.read_all())) == 3
