"""Hostile and unlucky clients, and faults of the machine: afterwards all is as it was before."""

import json
import os
import re
import resource
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

import pytest

from bench.server import Server, serving
from cartpole.http.limits import HEALTH_RESERVE
from tests.support.clients import REQUEST, connect, half_close, read_all, read_answer
from tests.support.memory import statuses
from tests.support.metrics import scrape
from tests.support.paths import GOLDEN
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
MEMORY_KIB = 16 * 1024  # what a hostile client may leave behind, of some 260 MiB
SERVE = [sys.executable, "-m", "cartpole.serve", "--port", "{port}"]


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def resident(server: Server) -> int:
    """KiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (found,) = re.findall(r"VmRSS:\s+(\d+)", status)
    return int(found)


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
    """What a test does leaves nothing behind, and the service answers."""
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
        for _ in range(2):  # what a first crowd makes the allocator keep is no leak
            with ExitStack() as stack:
                for client in crowd(running, 1000, stack):
                    client.sendall(REQUEST)
            running.get("/metrics")
        yield running


def crowd(server: Server, number: int, stack: ExitStack) -> list[socket.socket]:
    number = number // 10 if server.tls else number  # a handshake takes both sides a while
    return [stack.enter_context(connect(server)) for _ in range(number)]


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
        for client in slow:  # each is told so, and let go
            assert statuses(read_all(client)) == [408]


@pytest.mark.usefixtures("as_before")
def test_2000_connections_that_say_nothing(server: Server) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    with ExitStack() as stack:
        for client in crowd(server, 2000, stack):
            assert read_all(client) == b""


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
        sent, deadline = 0, time.monotonic() + 20
        while time.monotonic() < deadline:  # until it is let go
            try:
                sent += client.send(piece if sent < 900_000 or b"Length" not in framing else b"x")
            except OSError:
                break
            if sent > 900_000:
                time.sleep(0.05)
        else:
            raise AssertionError("it was never let go")


@pytest.mark.usefixtures("as_before")
def test_resets_at_every_stage(server: Server) -> None:
    linger = struct.pack("ii", 1, 0)  # close() sends RST
    for cut in range(0, len(REQUEST) + 1, 5):
        with connect(server) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            client.sendall(REQUEST * 2 + REQUEST[:cut])


@pytest.mark.usefixtures("as_before")
def test_a_client_that_never_reads(server: Server) -> None:
    with connect(server) as client:
        client.setblocking(False)
        sent, deadline = 0, time.monotonic() + 20
        while time.monotonic() < deadline:  # until it is let go
            try:
                sent += client.send(REQUEST * 100)
            except BlockingIOError:
                time.sleep(0.05)
            except OSError:
                break
        else:
            raise AssertionError("it was never let go")


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
    """Every write ends within a head."""
    stream, size, received = REQUEST * 4000, 100 * len(REQUEST), b""
    with connect(server) as client:
        for number in range(40):
            start = number * size
            client.sendall(stream[start + (cut if start else 0) : start + size + cut])
            while received.count(b"HTTP/1.1 200 OK") < 100 * (number - 1):  # some are on their way
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
def test_who_leaves_the_last_answers_unread(server: Server) -> None:
    """Less than makes the transport call for a pause, and more than the kernel takes."""
    before = scrape(server)["cartpole_connections_open", ()]
    with ExitStack() as stack:
        for end in (b"", b"nonsense\r\n\r\n", REQUEST[:-2] + b"Connection: close\r\n\r\n"):
            client = stack.enter_context(connect(server, receive_bytes=2048))
            client.sendall(REQUEST * 30 + end)
        half_close(stack.enter_context(connect(server, receive_bytes=2048)))
        wait_until(lambda: scrape(server)["cartpole_connections_open", ()] == before)


@pytest.mark.parametrize("kind", ["fast", "asgi", "fast-tls", "asgi-tls"])
def test_silent_connections_past_the_limit(kind: str, certificate: Path) -> None:
    http, _, tls = kind.partition("-")
    flags = ("--http", http, "--limit-connections", "5")
    with serving(*flags, tls=certificate if tls else None) as server:
        with ExitStack() as stack:
            for _ in range(300):  # in TLS, without a handshake
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            wait_until(lambda: descriptors_of_connections(server) <= 5 + HEALTH_RESERVE)
            wait_until(lambda: descriptors_of_connections(server) <= 5)

            def health() -> bool:
                with suppress(OSError):
                    return server.get("/health/live")[0] == 200
                return False

            wait_until(health)
        wait_until(lambda: server.get("/metrics")[0] == 200)
        samples = scrape(server)
    counted = samples["cartpole_refusals_total", (("reason", "too many connections"),)]
    assert counted >= 300 - 5 - HEALTH_RESERVE


def descriptors_of_connections(server: Server) -> int:
    """Those that the kernel has as established, on the server's side."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{server.port:04X}") and row[3] == "01" and row[9] != "0"
               for row in rows)  # fmt: skip


@pytest.mark.parametrize("kind", ["fast", "asgi", "fast-tls", "asgi-tls"])
def test_the_end_waits_for_no_unkind_client(kind: str, certificate: Path) -> None:
    http, _, tls = kind.partition("-")
    folder = certificate if tls else None
    with serving("--http", http, tls=folder) as server, ExitStack() as stack:
        body = b"POST /inference HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"
        clients = [stack.enter_context(connect(server, receive_bytes=2048)) for _ in range(6)]
        stages = (b"", REQUEST, REQUEST[:20], body, REQUEST * 30)
        for client, sent in zip(clients, stages, strict=False):
            client.sendall(sent)
        clients[5].setblocking(False)  # it reads nothing, and asks until it can't
        blocked = time.monotonic()
        while time.monotonic() - blocked < 1:
            try:
                clients[5].send(REQUEST * 100)
                blocked = time.monotonic()
            except (BlockingIOError, ssl.SSLWantWriteError):
                time.sleep(0.05)
        for sent in (b"", b"\x16\x03\x01\x02"):  # in TLS, a handshake that does not end
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port))).sendall(sent)
        started = time.monotonic()
        server.process.terminate()
        assert server.process.wait(timeout=60) == 0
        seconds = time.monotonic() - started
        assert server.process.stderr
        log = server.process.stderr.read()
    assert seconds < 20  # of --shutdown-timeout's 30
    assert " ERROR " not in log and "Traceback" not in log


def test_descriptors_run_out_and_come_back() -> None:
    limited = ["bash", "-c", "ulimit -n 100; exec " + " ".join(SERVE)]
    with serving(command=limited) as server:
        with ExitStack() as stack:
            crowd(server, 300, stack)
            time.sleep(1)
            before = server.process.pid and cpu(server)
            time.sleep(1)
            assert cpu(server) - before < 0.9  # it waits, and does not turn
        wait_until(lambda: descriptors(server) < 60)
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        server.process.terminate()
        assert server.process.stderr
        assert len(server.process.stderr.read().splitlines()) <= 4


def cpu(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.usefixtures("as_before")
def test_stopped_and_continued(server: Server) -> None:
    with connect(server) as client:
        server.process.send_signal(signal.SIGSTOP)
        client.sendall(REQUEST)
        time.sleep(3.5)  # longer than a head may take, or an idle connection is kept
        server.process.send_signal(signal.SIGCONT)
        assert client.recv(4096).startswith(b"HTTP/1.1 200 OK")


def test_the_model_file_goes_while_it_serves(tmp_path: Path) -> None:
    from cartpole.settings import BUNDLED_MODEL

    model = tmp_path / "model.pt"
    model.write_bytes(BUNDLED_MODEL.read_bytes())
    with serving("--model", str(model)) as server:
        before = server.get(f"/inference?{GOLDEN}")
        model.write_bytes(b"")
        model.unlink()
        assert server.get(f"/inference?{GOLDEN}") == before


def test_a_clock_that_jumps_back_an_hour(tmp_path: Path) -> None:
    """Only what is shown goes by the clock: the date. All waiting goes by the monotonic one."""
    jump = tmp_path / "jump"
    program = (
        "import os, time; real = time.time\n"
        f"time.time = lambda: real() - (3600 if os.path.exists({str(jump)!r}) else 0)\n"
        "from cartpole.serve import main; main()"
    )
    command = [sys.executable, "-c", program, "--port", "{port}", "--head-timeout", "1"]
    with serving(command=[*command, "--drain-seconds", "1"]) as server, connect(server) as client:

        def ask() -> datetime:
            client.sendall(REQUEST)
            answer = read_answer(client)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            (date,) = re.findall(rb"date: ([^\r]+)", answer)
            return parsedate_to_datetime(date.decode())

        before = ask()
        with connect(server) as slow:
            slow.sendall(REQUEST[:20])
            jump.touch()
            wait_until(lambda: ask() < before)
            assert statuses(read_all(slow)) == [408]
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0


def test_a_full_disk_for_the_log() -> None:
    with serving(
        command=["bash", "-c", "exec " + " ".join(SERVE) + " --access-log 2>/dev/full"]
    ) as server:
        for _ in range(3):
            assert server.get(f"/inference?{GOLDEN}")[0] == 200


def test_a_metrics_file_that_can_not_be_made() -> None:
    program = "ulimit -f 0; exec " + " ".join(SERVE).replace("{port}", "0") + " --workers 2"
    environ = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        ["bash", "-c", program], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "metrics" in done.stderr


def test_refusals_are_one_line_not_one_each() -> None:
    with serving("--log-format", "json") as server:
        for _ in range(50):
            with connect(server) as client:
                client.sendall(b"nonsense\r\n\r\n")
                assert statuses(read_all(client)) == [400]
        time.sleep(2.5)
        server.process.terminate()
        assert server.process.stderr
        events = [json.loads(line) for line in server.process.stderr.read().splitlines()]
    assert [event["level"] for event in events] == ["info", "warning", "info"]
    assert re.search(r"refused since the last such line: \d+ of 400", events[1]["message"])
    assert {"time", "level", "logger", "process", "message"} == events[0].keys()
