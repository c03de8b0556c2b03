"""Hostile and unlucky clients, and faults of the machine: afterwards all is as it was before."""

import json
import resource
import signal
import socket
import ssl
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from bench.server import Server, serving
from tests.support.clients import REQUEST, connect, crowd, half_close, read_all, read_answer
from tests.support.memory import statuses
from tests.support.metrics import scrape
from tests.support.paths import GOLDEN
from tests.support.processes import descriptors, resident
from tests.support.waiting import wait_until

# The service, which tells on SIGUSR2 how many tasks and timers its event loop has.
COUNTING = """
import asyncio, gc, json, os, signal, sys
from cartpole.serve import main

def count(*_):
    alive = gc.get_objects()
    tasks = sum(isinstance(one, asyncio.Task) and not one.done() for one in alive)
    timers = sum(type(one).__name__ == "TimerHandle" and not one.cancelled() for one in alive)
    with open(os.environ["COUNTS"] + ".new", "w") as file:
        json.dump([tasks, timers], file)
    os.replace(file.name, os.environ["COUNTS"])

signal.signal(signal.SIGUSR2, count)
main()
"""
MEMORY_KIB = 16 * 1024  # growth that a hostile client may cause, of some 260 MiB in all


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("counts") / "counts"


def tasks_and_timers(server: Server, counts: Path) -> tuple[int, int]:
    counts.unlink(missing_ok=True)
    server.process.send_signal(signal.SIGUSR2)
    wait_until(counts.exists)
    tasks, timers = json.loads(counts.read_text())
    return tasks, timers


def none_more(now: tuple[int, int], before: tuple[int, int]) -> bool:
    return now[0] <= before[0] and now[1] <= before[1]


@pytest.fixture
def as_before(server: Server, counts: Path) -> Iterator[None]:
    """Afterwards the service answers, and has no more descriptors, tasks, timers or memory."""
    server.get("/health/ready")
    open_before, before = descriptors(server), tasks_and_timers(server, counts)
    assert min(before) > 0  # uvicorn's own task, the sweep's own timer: the count sees them
    memory = resident(server)
    yield
    assert server.get(f"/inference?{GOLDEN}")[0] == 200
    wait_until(lambda: scrape(server)["cartpole_connections_open", ()] <= 1)
    wait_until(lambda: descriptors(server) <= open_before)
    wait_until(lambda: none_more(tasks_and_timers(server, counts), before))
    assert resident(server) < memory + MEMORY_KIB


@pytest.fixture(scope="module", params=["fast", "asgi", "fast-tls", "asgi-tls"])
def server(request: pytest.FixtureRequest, counts: Path, certificate: Path) -> Iterator[Server]:
    http, _, tls = request.param.partition("-")
    flags = ("--http", http, "--head-timeout", "2", "--keep-alive", "3")
    command = [sys.executable, "-c", COUNTING, "--port", "{port}", "--log-level", "error", *flags]
    folder = certificate if tls else None
    with serving(command=command, environ={"COUNTS": str(counts)}, tls=folder) as running:
        for _ in range(2):  # warm up the allocator, so that its caches don't count as a leak
            with ExitStack() as stack:
                for client in crowd(running, 1000, stack):
                    client.sendall(REQUEST)
            running.get("/metrics")
        yield running


@pytest.mark.usefixtures("as_before")
def test_a_byte_a_second_on_500_connections(server: Server) -> None:
    with ExitStack() as stack:
        slow = crowd(server, 500, stack)
        good = stack.enter_context(connect(server))
        for byte in REQUEST[:5]:
            for client in slow:
                with suppress(OSError):
                    client.send(bytes([byte]))
            for _ in range(50):
                good.sendall(REQUEST)
                assert read_answer(good).startswith(b"HTTP/1.1 200 OK")
            time.sleep(0.8)
        for client in slow:  # each gets a response and is closed
            assert statuses(read_all(client)) == [408]


@pytest.mark.usefixtures("as_before")
def test_2000_connections_that_say_nothing(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with ExitStack() as stack:
        for client in crowd(server, 2000, stack):
            assert read_all(client) == b""


def check_disconnected(client: socket.socket, next_piece: Callable[[int], bytes]) -> None:
    """Send until the service closes the connection; it must do so within 20 s."""
    sent, deadline = 0, time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            sent += client.send(next_piece(sent))
        except (BlockingIOError, ssl.SSLWantWriteError):
            time.sleep(0.05)
        except OSError:
            return
    raise AssertionError("the service keeps the connection open")


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize(
    ("framing", "first", "piece"),
    [
        (b"Content-Length: 1000000", b"", b"x" * 4096),
        (b"Transfer-Encoding: chunked", b"", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        (b"Transfer-Encoding: chunked", b"1;", b"x" * 4096),
    ],
    ids=["length", "chunks", "extension"],
)
def test_a_body_without_end(server: Server, framing: bytes, first: bytes, piece: bytes) -> None:
    with connect(server) as client:
        client.sendall(b"POST /inference HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n" + first)

        def next_piece(sent: int) -> bytes:
            if sent > 900_000:
                time.sleep(0.05)
            return piece if sent < 900_000 or b"Length" not in framing else b"x"

        check_disconnected(client, next_piece)


@pytest.mark.usefixtures("as_before")
def test_resets_at_every_stage(server: Server) -> None:
    linger = struct.pack("ii", 1, 0)  # close() sends RST
    for cut in range(0, len(REQUEST) + 1, 5):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.sendall(REQUEST * 2 + REQUEST[:cut])
    assert server.get("/health/live")[0] == 200


@pytest.mark.usefixtures("as_before")
def test_a_client_that_never_reads(server: Server) -> None:
    with connect(server) as client:
        client.setblocking(False)
        check_disconnected(client, lambda _: REQUEST * 100)


@pytest.mark.usefixtures("as_before")
def test_a_thousand_pipelined_half_of_them_bad(server: Server) -> None:
    bad = b"GET /inference?position=x HTTP/1.1\r\nHost: a\r\n\r\n"
    with connect(server) as client:
        client.sendall((REQUEST + bad) * 500)
        half_close(client)
        assert statuses(read_all(client)) == [200, 400] * 500


@pytest.mark.usefixtures("as_before")
@pytest.mark.parametrize("cut", [20, 50])
def test_4000_pipelined_while_their_answers_are_read(server: Server, cut: int) -> None:
    """Every write ends in the middle of a head."""
    stream, size, received = REQUEST * 4000, 100 * len(REQUEST), b""
    with connect(server) as client:
        for number in range(40):
            start = number * size
            client.sendall(stream[start + (cut if start else 0) : start + size + cut])
            while received.count(b"HTTP/1.1 200 OK") < 100 * (
                number - 1
            ):  # the last hundred may still be in flight
                more = client.recv(65536)
                assert more, received[-500:]
                received += more
        half_close(client)
        received += read_all(client)
    assert statuses(received) == [200] * 4000


@pytest.mark.usefixtures("as_before")
def test_200_bodies_that_do_not_come(server: Server) -> None:
    begun = b"POST /inference HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\n"
    with ExitStack() as stack:
        slow = crowd(server, 200, stack)
        for client in slow:
            client.sendall(begun + b"x" * 1000)
        for client in slow:
            assert statuses(read_all(client)) == [408]


@pytest.mark.usefixtures("as_before")
def test_clients_that_leave_the_last_answers_unread(server: Server) -> None:
    """Unread responses that fill the kernel's buffers but not the transport's."""
    before = scrape(server)["cartpole_connections_open", ()]
    with ExitStack() as stack:
        for end in (b"", b"nonsense\r\n\r\n", REQUEST[:-2] + b"Connection: close\r\n\r\n"):
            client = stack.enter_context(connect(server, receive_bytes=2048))
            client.sendall(REQUEST * 30 + end)
        half_close(stack.enter_context(connect(server, receive_bytes=2048)))
        wait_until(lambda: scrape(server)["cartpole_connections_open", ()] == before)
        assert server.get("/health/live")[0] == 200


@pytest.mark.usefixtures("as_before")
def test_stopped_and_continued(server: Server) -> None:
    with connect(server) as client:
        server.process.send_signal(signal.SIGSTOP)
        client.sendall(REQUEST)
        time.sleep(3.5)  # longer than a head may take, or an idle connection is kept
        server.process.send_signal(signal.SIGCONT)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")
