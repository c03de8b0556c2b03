"""`make bench-scale`: start, memory, many connections, workers, collection."""

import re
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.contenders import QUERY, SERVE, SERVER_CPU
from bench.end_to_end import requests
from bench.machine import descendants, describe, resident_mebibytes
from bench.server import Server, serving
from bench.wrk import CLIENT_CPU, measure

ROUNDS, SECONDS = 5, 2
IDLE = 2000
STARTS = 7
PERCENTILES = Path(__file__).parent / "peers/percentiles.lua"
COUNTING_ROUNDS = 9
NOT_COUNTED = (
    "from cartpole.metrics.counters import WorkerCounters as Counters; "
    "Counters.record_forward = Counters.record_answers = lambda self, *arguments: None"
)
GARBAGE = {
    "as Python starts": "gc.freeze = lambda: None",
    "frozen after the start (as served)": "",
    "frozen and never collected": "f = gc.freeze; gc.freeze = lambda: (f(), gc.disable())",
}


def many_connections() -> str:
    cpu: dict[int, list[float]] = {64: [], 1000: []}
    with serving(cpu=SERVER_CPU) as server:
        url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
        for _ in range(ROUNDS):
            for connections, values in cpu.items():
                values.append(measure(url, [pid], connections, SECONDS).cpu)
    few, many = (statistics.median(values) for values in cpu.values())
    return (
        f"CPU per request: {few:.1f} µs with 64 connections, {many:.1f} µs with 1,000 "
        f"({many / few:.2f} times)"
    )


def idle_connections() -> str:
    with serving() as server:
        server.get(f"/inference?{QUERY}")
        before = resident_mebibytes(server.process.pid)
        clients = []
        for _ in range(IDLE):
            client = socket.create_connection(("127.0.0.1", server.port))
            requests(client, 1)
            clients.append(client)
        grown = (resident_mebibytes(server.process.pid) - before) / IDLE * 1024
        for client in clients:
            client.close()
    return f"resident memory per idle connection, after one request on it: {grown:.1f} KiB"


def ready() -> str:
    """Time from the start of the process to the first connection, against `import torch` alone."""
    starts: dict[str, list[float]] = {"ours": [], "torch": []}
    for _ in range(STARTS):
        began = time.perf_counter()
        with serving(cpu=SERVER_CPU):
            starts["ours"].append(time.perf_counter() - began)
        began = time.perf_counter()
        importing = ["taskset", "-c", str(SERVER_CPU), sys.executable, "-c", "import torch"]
        subprocess.run(importing, check=True)
        starts["torch"].append(time.perf_counter() - began)
    ours, torch = (statistics.median(values) for values in starts.values())
    return f"ready after {ours:.2f} s, {ours / torch:.2f} times `import torch` ({torch:.2f} s)"


@contextmanager
def prepared(statement: str) -> Iterator[Server]:
    """The service, started after this statement has run in its process."""
    program = f"import gc, sys; {statement or 'pass'}\nfrom cartpole.serve import main; main()"
    with serving(command=[sys.executable, "-c", program, *SERVE[3:]], cpu=SERVER_CPU) as server:
        measure(f"http://127.0.0.1:{server.port}", [], 64, 1)  # warms up
        yield server


def garbage() -> str:
    figures: dict[str, list[int]] = {name: [] for name in GARBAGE}
    for _ in range(ROUNDS):
        for name, statement in GARBAGE.items():
            with prepared(statement) as server:
                wrk = ["taskset", "-c", str(CLIENT_CPU), "wrk", "-t1", "-c64", f"-d{SECONDS}s"]
                url = f"http://127.0.0.1:{server.port}/inference?{QUERY}"
                done = subprocess.run(
                    [*wrk, "-s", str(PERCENTILES), url], check=True, capture_output=True, text=True
                )
            (value,) = re.findall(r"p99.9 (\d+)", done.stdout)
            figures[name].append(int(value))
    return "\n".join(
        f"p99.9 at 64 connections, {name}: {statistics.median(values):,.0f} µs"
        for name, values in figures.items()
    )


def counting() -> str:
    cpu: dict[str, list[float]] = {"": [], NOT_COUNTED: []}
    for _ in range(COUNTING_ROUNDS):
        for statement, values in cpu.items():
            with prepared(statement) as server:
                url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
                values.append(measure(url, [pid], 64, SECONDS).cpu)
    counted, not_counted = (statistics.median(values) for values in cpu.values())
    share = counted / not_counted - 1
    return (
        f"CPU per request: {counted:.2f} µs, {not_counted:.2f} µs without counting ({share:+.1%})"
    )


def workers() -> str:
    """Processor time and memory of two workers on one core, and on two that wrk shares with them.

    wrk needs one of this machine's two cores, so the capacity of two can't be measured. It follows
    from the processor time per request, which holds what the workers cost each other.
    """
    cases: dict[str, tuple[int, int, int | None]] = {  # workers, connections, core of all
        "1 worker": (1, 64, SERVER_CPU),
        "2 workers on its core, the same 64 connections": (2, 64, SERVER_CPU),
        "2 workers on its core, 64 connections each": (2, 128, SERVER_CPU),
        "1 worker on either core": (1, 64, None),
        "2 workers on two cores, 64 connections each": (2, 128, None),
    }
    cpu: dict[str, list[float]] = {name: [] for name in cases}
    memory: dict[int, float] = {}
    for _ in range(ROUNDS):
        for name, (number, connections, core) in cases.items():
            with serving("--workers", str(number), cpu=core) as server:
                url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
                while f"cartpole_workers {number}.0".encode() not in server.get("/metrics")[1]:
                    time.sleep(0.1)
                client = CLIENT_CPU if core is not None else None
                cpu[name].append(measure(url, [pid], connections, SECONDS, cpu=client).cpu)
                memory[number] = sum(map(proportional, [pid, *descendants(pid)])) / 2**20
    medians = {name: statistics.median(values) for name, values in cpu.items()}
    shown = "; ".join(f"{name} {value:.1f} µs" for name, value in medians.items())
    alone, both = list(medians.values())[-2:]
    return (
        f"CPU per request: {shown}; two cores carry {2 * alone / both:.2f} times as much as one; "
        f"memory (PSS): {memory[1]:.0f} MiB with 1 worker, {memory[2]:.0f} MiB with 2"
    )


def proportional(pid: int) -> int:
    """Proportional set size in bytes: shared pages are divided among their processes."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    (kilobytes,) = re.findall(r"^Pss:\s+(\d+) kB", text, re.M)
    return int(kilobytes) * 1024


def engines() -> str:
    """Time to start and resident memory of the native engine, against TorchScript."""
    figures = []
    for engine in ("torchscript", "native"):
        starts, memory = [], []
        for _ in range(STARTS):
            began = time.perf_counter()
            with serving("--engine", engine, cpu=SERVER_CPU) as server:
                starts.append(time.perf_counter() - began)
                server.get(f"/inference?{QUERY}")
                memory.append(resident_mebibytes(server.process.pid))
        figures.append((statistics.median(starts), statistics.median(memory)))
    (start, size), (native_start, native_size) = figures
    return (
        f"native against torchscript: ready after {native_start:.2f} s against {start:.2f} s, "
        f"resident memory {native_size:.0f} MiB against {size:.0f} MiB"
    )


FIGURES = (
    ready,
    engines,
    many_connections,
    idle_connections,
    workers,
    counting,
    garbage,
)


def main() -> None:
    for figure in FIGURES:
        print(figure(), flush=True)
    print(describe())


if __name__ == "__main__":
    main()
