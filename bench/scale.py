"""`make bench-scale`: many connections, idle ones, a constant rate, garbage collection."""

import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bench.compare import CLIENT_CPU, CONTENDERS, QUERY, SERVE, SERVER_CPU, Contender, measure
from bench.end_to_end import requests
from bench.machine import describe
from bench.server import Server, serving

ROUNDS, SECONDS = 5, 2
IDLE = 2000
RATE, RATE_SECONDS = 200, 10
PERCENTILES = Path(__file__).parent / "peers/percentiles.lua"
GARBAGE = {
    "as Python starts": "gc.freeze = lambda: None",
    "frozen after the start (as served)": "",
    "frozen and never collected": "f = gc.freeze; gc.freeze = lambda: (f(), gc.disable())",
}


def many_connections() -> str:
    contender: Contender = CONTENDERS[0]
    cpu: dict[int, list[float]] = {64: [], 1000: []}
    with serving(cpu=SERVER_CPU) as server:
        url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
        for _ in range(ROUNDS):
            for connections, values in cpu.items():
                values.append(measure(contender, url, pid, connections, SECONDS).cpu)
    few, many = (statistics.median(values) for values in cpu.values())
    return (
        f"CPU a request: 64 connections {few:.1f} µs, 1,000 {many:.1f} µs, {many / few:.2f} of it"
    )


def resident(server: Server) -> int:
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    (kilobytes,) = re.findall(r"VmRSS:\s+(\d+) kB", text)
    return int(kilobytes) * 1024


def idle_connections() -> str:
    with serving() as server:
        server.get(f"/inference?{QUERY}")
        before = resident(server)
        clients = []
        for _ in range(IDLE):
            client = socket.create_connection(("127.0.0.1", server.port))
            requests(client, 1)
            clients.append(client)
        grown = (resident(server) - before) / IDLE / 1024
        for client in clients:
            client.close()
    return f"resident memory per idle connection that was answered once: {grown:.1f} KiB"


def constant_rate() -> str:
    """Each request is sent when it is due, whatever the one before took."""
    latencies = []
    with (
        serving(cpu=SERVER_CPU) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        requests(client, 100)
        started = time.perf_counter()
        for number in range(RATE * RATE_SECONDS):
            due = started + number / RATE
            time.sleep(max(0.0, due - time.perf_counter()))
            requests(client, 1)
            latencies.append(time.perf_counter() - due)
    cuts = statistics.quantiles(latencies, n=100)
    p50, p99 = cuts[49] * 1e6, cuts[98] * 1e6
    return f"{RATE} requests/s for {RATE_SECONDS} s: p50 {p50:.0f} µs, p99 {p99:.0f} µs"


def garbage() -> list[str]:
    figures: dict[str, list[int]] = {name: [] for name in GARBAGE}
    for _ in range(ROUNDS):
        for name, preparation in GARBAGE.items():
            program = (
                f"import gc, sys; {preparation or 'pass'}\nfrom cartpole.serve import main; main()"
            )
            command = [sys.executable, "-c", program, *SERVE[3:]]
            with serving(command=command, cpu=SERVER_CPU) as server:
                wrk = ["taskset", "-c", str(CLIENT_CPU), "wrk", "-t1", "-c64", f"-d{SECONDS}s"]
                url = f"http://127.0.0.1:{server.port}/inference?{QUERY}"
                measure(CONTENDERS[0], url.partition("/inference")[0], 0, 64, 1)  # warms up
                done = subprocess.run(
                    [*wrk, "-s", str(PERCENTILES), url], check=True, capture_output=True, text=True
                )
            (value,) = re.findall(r"p99.9 (\d+)", done.stdout)
            figures[name].append(int(value))
    return [
        f"p99.9 at 64 connections, {name}: {statistics.median(values):,.0f} µs"
        for name, values in figures.items()
    ]


def main() -> None:
    for figure in (many_connections, idle_connections, constant_rate):
        print(figure(), flush=True)
    print("\n".join(garbage()))
    print(describe())


if __name__ == "__main__":
    main()
