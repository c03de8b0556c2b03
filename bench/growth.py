"""`make bench-growth`: what each step beyond one worker costs, in processor time and latency.

All processes of a case share core 0; wrk has core 1. Ray has two nodes and one replica. The time
that the processes take without requests is part of the figures; it is shown below them.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from bench.balancers import balancing
from bench.contenders import QUERY, SERVER_CPU
from bench.machine import cpu_seconds, describe
from bench.pictures import bars
from bench.record import RESULTS
from bench.server import free_port, serving
from bench.sessions import end_session
from bench.tables import ByServer, tables
from bench.wrk import measure
from cartpole.settings import BUNDLED_MODEL

START_SECONDS = 120
CALM = 0.3  # cores that the processes of a case may use without requests; Ray starts for long
IDLE_SECONDS = 5
KIND = "Kept connections"
SHOWS = {KIND: ("p50", "p99", "cpu", "requests_per_second")}
CONNECTIONS = (1, 64)
BIN = Path(sys.executable).parent
SERVE_YAML = Path(__file__).parents[1] / "deploy/serve.yaml"

Running = tuple[str, list[int]]  # URL, and the processes whose time counts with their descendants


@contextmanager
def workers(number: int) -> Iterator[Running]:
    with serving("--workers", str(number)) as server:
        server.wait_for_workers(number)
        yield f"http://127.0.0.1:{server.port}", [server.process.pid]


@contextmanager
def behind(program: str) -> Iterator[Running]:
    """Two instances behind a load balancer."""
    with ExitStack() as stack:
        servers = [stack.enter_context(serving()) for _ in range(2)]
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ports = [server.port for server in servers]
        balancer = stack.enter_context(balancing(program, ports, folder))
        pids = [one.process.pid for one in (*servers, balancer)]
        yield f"http://127.0.0.1:{balancer.port}", pids


@contextmanager
def on_ray(*command: str, url: Callable[[Path], str]) -> Iterator[Running]:
    """A program on a Ray cluster of two nodes, once the URL answers.

    Args:
        command: starts it, with `{address}` and `{folder}` in their places.
        url: gives the URL, or "" while it is not known; takes the folder.
    """
    from bench.ray_nodes import Cluster

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cluster = Cluster(folder)
        arguments = [part.format(address=cluster.address, folder=folder) for part in command]
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(arguments, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + START_SECONDS
            while not ((found := url(folder)) and answers(found)):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.5)
            yield found, [process.pid, *cluster.pids()]
        finally:
            process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            end_session(process.pid)
            process.wait()
            cluster.end()


def idle_cores(pids: list[int]) -> float:
    """The cores that the processes use without requests, once they have started whatever they do.

    Raises:
        RuntimeError: they use more than CALM, START_SECONDS later.
    """
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        used = cpu_seconds(*pids)
        time.sleep(IDLE_SECONDS)
        cores = (cpu_seconds(*pids) - used) / IDLE_SECONDS
        if cores <= CALM:
            return cores
    raise RuntimeError(f"{cores:.2f} cores are used without requests")


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/inference?{QUERY}", timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@contextmanager
def placed_by_ray() -> Iterator[Running]:
    def url(folder: Path) -> str:
        path = folder / "endpoints"
        endpoint = path.read_text().strip() if path.exists() else ""
        return f"http://{endpoint}" if endpoint else ""

    module = (sys.executable, "-m", "cartpole.integrations.ray", "--address", "{address}")
    options = ("--replicas", "1", "--port", "21000", "--model", str(BUNDLED_MODEL))
    with on_ray(*module, *options, "--endpoints", "{folder}/endpoints", url=url) as running:
        yield running


@contextmanager
def ray_serve(haproxy: bool) -> Iterator[Running]:
    """The deployment of deploy/serve.yaml with one replica."""
    port = free_port()
    text = SERVE_YAML.read_text().replace("port: 8000", f"port: {port}")
    text = text.replace("EveryNode", "HeadOnly")  # two nodes of one machine would share the port
    if haproxy:  # it asks for the replica at its node's address
        text = text.replace("host: 127.0.0.1", "host: 0.0.0.0")
    os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1" if haproxy else "0"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(text.replace("num_replicas: 2", "num_replicas: 1"))
        file.flush()
        command = (str(BIN / "serve"), "run", "--address", "{address}", file.name)
        with on_ray(*command, url=lambda _: f"http://127.0.0.1:{port}") as running:
            yield running


CASES: dict[str, Callable[[], AbstractContextManager[Running]]] = {
    "cartpole, one worker": lambda: workers(1),
    "cartpole, two workers": lambda: workers(2),
    "two instances behind nginx": lambda: behind("nginx"),
    "two instances behind HAProxy": lambda: behind("haproxy"),
    "cartpole, placed by Ray": placed_by_ray,
    "Ray Serve, its own proxy": lambda: ray_serve(haproxy=False),
    "Ray Serve, HAProxy mode": lambda: ray_serve(haproxy=True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--only", action="append", choices=list(CASES), help="may be repeated")
    arguments = parser.parse_args()
    programs = ("wrk", "taskset", "nginx", "haproxy", str(BIN / "ray"))
    if missing := [name for name in programs if not shutil.which(name)]:
        print(f"growth: this machine lacks {', '.join(missing)}", file=sys.stderr)
        return 1
    os.sched_setaffinity(0, {SERVER_CPU})  # what is started from here inherits it
    results: dict[str, ByServer] = {str(number): {} for number in CONNECTIONS}
    idle: dict[str, float] = {}
    for name in arguments.only or CASES:
        with CASES[name]() as (url, pids):
            idle[name] = idle_cores(pids)
            measure(url, pids, 8, 1)  # warms up
            for _ in range(arguments.rounds):
                for connections in CONNECTIONS:
                    found = results[str(connections)].setdefault(name, [])
                    found.append(measure(url, pids, connections, arguments.seconds))
        print(name, flush=True)
    how = f"Medians of {arguments.rounds} rounds of {arguments.seconds} s. {describe()}"
    rest = ", ".join(f"{name} {cores:.3f}" for name, cores in idle.items())
    text = f"{tables({KIND: results}, SHOWS)}Cores used without requests: {rest}.\n{how}\n"
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"growth-{datetime.now():%Y%m%d-%H%M%S}"
    raw = {
        connections: {name: [asdict(each) for each in rounds] for name, rounds in by.items()}
        for connections, by in results.items()
    }
    stem.with_suffix(".json").write_text(
        json.dumps({"machine": describe(), "idle_cores": idle, "results": raw})
    )
    bars(results, stem.with_suffix(".svg"))
    print(f"\n{text}\nkept: {stem}.json and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
