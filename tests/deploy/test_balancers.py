"""nginx and HAProxy, with the files of deploy/, in front of two instances of the service."""

import asyncio
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from bench.balancers import Balancer, balancing
from bench.server import Server, free_port, serving
from tests.support.load import RATE, Load
from tests.support.metrics import scrape
from tests.support.needs import needs
from tests.support.paths import GOLDEN
from tests.support.processes import UNMEASURED
from tests.support.waiting import wait_until

TARGET = f"/inference?{GOLDEN}"
INFERENCES = ("cartpole_requests_total", (("route", "/inference"), ("status", "200")))
METRICS = (
    "/metrics",
    "/%6detrics",
    "/%6D%65%74%72%69%63%73",
    "/%256detrics",
    "/metric%73?x=%00",
    "/metrics/",
    "/metrics//",
    "//metrics",
    "/.//metrics",
    "/./metrics",
    "/%2e/metrics",
    "/inference/../metrics",
    "/inference/%2e%2e%2fmetrics",
    "/%2fmetrics",
    "/metrics%00",
    "/metrics;x",
    "/metrics%3fx",
    "/METRICS",
    "/metric%53",
)
both = pytest.mark.parametrize(
    "program", [pytest.param(name, marks=needs(name)) for name in ("nginx", "haproxy")]
)


class Pair:
    """Two instances, each on a port that it keeps."""

    def __init__(self, stack: ExitStack, *flags: str) -> None:
        self._stack = stack
        self.ports = [free_port(), free_port()]
        with ThreadPoolExecutor() as pool:
            self.instances = list(pool.map(lambda port: self._started(port, *flags), self.ports))

    def _started(self, port: int, *flags: str) -> Server:
        return self._stack.enter_context(serving(*flags, port=port, environ=UNMEASURED))

    def start_first(self, *flags: str) -> None:
        """Start it again, and wait until the balancer sends it requests."""
        self.instances[0] = self._started(self.ports[0], *flags)
        wait_until(lambda: inferences(self.instances[0]))

    def end_first(self, number: signal.Signals) -> None:
        self.instances[0].process.send_signal(number)
        self.instances[0].process.wait(timeout=30)


def inferences(server: Server) -> float:
    return scrape(server).get(INFERENCES, 0)


def is_left_alone(server: Server) -> bool:
    before = inferences(server)
    time.sleep(0.2)
    return inferences(server) == before


def told(balancer: Balancer, line: str) -> str:
    """Give HAProxy's runtime socket a command; return its answer."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(balancer.admin))
        client.sendall(f"{line}\n".encode())
        return client.makefile().read().strip()


def check_nothing_is_lost(balancer: Balancer, act: Callable[[], None]) -> None:
    """Send 1,000 requests a second while `act` runs: each has the answer, none is sent again."""
    load = Load(balancer.port, RATE)

    async def run() -> int:
        loading = asyncio.create_task(load.run(600))
        await asyncio.sleep(0.2)
        await asyncio.to_thread(act)
        await asyncio.sleep(0.2)
        due = load.finish()
        await loading
        return due

    due = asyncio.run(run())
    assert (load.lost, load.retried, load.other) == (0, 0, [])
    assert load.sent == load.answered == due  # rate times time
    assert len(load.bodies) == 1


def check_what_it_passes_on(balancer: Balancer, pair: Pair) -> None:
    direct = pair.instances[0].get(TARGET)
    before = [inferences(instance) for instance in pair.instances]
    for _ in range(20):
        assert balancer.get(TARGET) == direct
    after = [inferences(instance) for instance in pair.instances]
    assert all(b >= a + 5 for a, b in zip(before, after, strict=True)), "one gets all requests"
    check_metrics_are_hidden(balancer, pair)


def check_metrics_are_hidden(balancer: Balancer, pair: Pair) -> None:
    """However the path is spelled."""
    spellings = {path: pair.instances[0].get(path)[0] for path in METRICS}
    assert spellings["/metrics"] == spellings["/%6detrics"] == 200, "the service decodes paths"
    assert [path for path in METRICS if balancer.get(path)[0] == 200] == []
    assert balancer.get("/metrics")[0] == balancer.get("/%6detrics")[0] == 404


@both
def test_no_request_is_lost_with_an_instance(program: str, tmp_path: Path) -> None:
    """One of two instances is killed, started, stopped, started, drained, stopped."""

    def stop() -> None:
        pair.end_first(signal.SIGTERM)

    def start_and_drain() -> None:
        pair.start_first("--drain-seconds", "2")
        pair.end_first(signal.SIGTERM)

    with ExitStack() as stack:
        pair = Pair(stack)
        balancer = stack.enter_context(balancing(program, pair.ports, tmp_path))
        check_what_it_passes_on(balancer, pair)
        check_nothing_is_lost(balancer, lambda: pair.end_first(signal.SIGKILL))
        check_nothing_is_lost(balancer, pair.start_first)
        check_nothing_is_lost(balancer, stop)
        check_nothing_is_lost(balancer, start_and_drain)
        connections = scrape(pair.instances[1])["cartpole_connections_accepted_total", ()]
        answered = inferences(pair.instances[1])
    assert connections < answered / 10, "connections to the instances are not kept"


@needs("haproxy")
def test_haproxy_drains_an_instance(tmp_path: Path) -> None:
    """By its runtime socket, and by the check on /health/ready while the instance still serves."""

    def told_to_drain() -> None:
        assert told(balancer, "set server cartpole/one state drain") == ""
        wait_until(lambda: is_left_alone(pair.instances[0]))
        before = inferences(pair.instances[0])
        assert told(balancer, "set server cartpole/one state ready") == ""
        wait_until(lambda: inferences(pair.instances[0]) > before)

    def stopped() -> None:
        pair.instances[0].process.send_signal(signal.SIGTERM)
        wait_until(lambda: ",DOWN," in told(balancer, "show stat cartpole 4 -1").splitlines()[1])
        assert pair.instances[0].get(TARGET)[0] == 200

    with ExitStack() as stack:
        pair = Pair(stack, "--drain-seconds", "60")
        balancer = stack.enter_context(balancing("haproxy", pair.ports, tmp_path))
        check_nothing_is_lost(balancer, told_to_drain)
        check_nothing_is_lost(balancer, stopped)
        for instance in pair.instances:  # or each would drain
            instance.process.kill()


class Working(BaseHTTPRequestHandler):
    """An instance that answers everything."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


class Failing(Working):
    """An instance that reads each request but a health check, and ends the connection."""

    def do_GET(self) -> None:
        if self.path == "/health/ready":
            super().do_GET()
        else:
            seen.append(self.command)
            self.close_connection = True

    do_POST = do_GET


seen: list[str] = []


@both
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_that_was_read_goes_to_the_next(
    program: str, method: str, tmp_path: Path
) -> None:
    seen.clear()
    with ExitStack() as stack:
        ports = []
        for handler in (Failing, Working):
            server = stack.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), handler))
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
            stack.callback(server.shutdown)
            ports.append(server.server_port)
        balancer = stack.enter_context(balancing(program, ports, tmp_path))
        url = f"http://127.0.0.1:{balancer.port}/"
        for _ in range(4):
            with urlopen(Request(url, method=method), timeout=20) as answer:
                assert answer.status == 200
    assert method in seen
