"""`make bench-scale`: start, memory, many and idle connections, workers, counting."""

import os
import select
import signal
import socket
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack
from math import isnan, nan

from bench.contenders import QUERY, SERVE, SERVER_CPU
from bench.end_to_end import requests
from bench.machine import WORKER, children, descendants, describe, pss_mebibytes, resident_mebibytes
from bench.server import READY_SECONDS, Server, serving
from bench.wrk import CLIENT_CPU, measure

ROUNDS, SECONDS = 5, 2
IDLE = 2000
STARTS = 7
REQUESTS = 64  # on so many connections that each of four workers gets some
COUNTING_ROUNDS = 9
NOT_COUNTED = (
    "from cartpole.metrics.counters import WorkerCounters as Counters; "
    "Counters.record_forward = Counters.record_answers = lambda self, *arguments: None"
)


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


def counting() -> str:
    cpu: dict[str, list[float]] = {"": [], NOT_COUNTED: []}
    for _ in range(COUNTING_ROUNDS):
        for statement, values in cpu.items():
            program = f"{statement}\nfrom cartpole.serve import main; main()"
            command = (sys.executable, "-c", program, *SERVE[3:])
            with serving(command=command, cpu=SERVER_CPU) as server:
                url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
                measure(url, [], 64, 1)  # warms up
                values.append(measure(url, [pid], 64, SECONDS).cpu)
    counted, not_counted = (statistics.median(values) for values in cpu.values())
    share = counted / not_counted - 1
    return (
        f"CPU per request: {counted:.2f} µs, {not_counted:.2f} µs without counting ({share:+.1%})"
    )


def workers() -> str:
    """Processor time of two workers on one core, and on two that wrk shares with them.

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
    for _ in range(ROUNDS):
        for name, (number, connections, core) in cases.items():
            with serving("--workers", str(number), cpu=core) as server:
                url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
                server.wait_for_workers(number)
                client = CLIENT_CPU if core is not None else None
                cpu[name].append(measure(url, [pid], connections, SECONDS, cpu=client).cpu)
    medians = {name: statistics.median(values) for name, values in cpu.items()}
    shown = "; ".join(f"{name} {value:.1f} µs" for name, value in medians.items())
    alone, both = list(medians.values())[-2:]
    return f"CPU per request: {shown}; two cores carry {2 * alone / both:.2f} times as much as one"


def processes() -> str:
    """A table of one to four workers: memory, start, and how soon a killed one is replaced."""
    cases = [(engine, number) for engine in ("torchscript", "native") for number in (1, 2, 4)]
    rounds: dict[tuple[str, int], list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _ in range(STARTS):
        for engine, number in cases:
            began = time.perf_counter()
            # Workers that are stopped below must not be replaced.
            flags = ("--engine", engine, "--workers", str(number), "--worker-timeout", "0")
            with serving(*flags) as server:
                server.wait_for_workers(number)
                start = time.perf_counter() - began
                for _ in range(REQUESTS):
                    server.get(f"/inference?{QUERY}")
                pid = server.process.pid
                memory = pss_mebibytes(pid, *descendants(pid))
                rounds[engine, number].append((memory, start, replacement_seconds(server)))
    text = "| engine | workers | memory (PSS) | all serve after | times one | replaced after |\n"
    text += "|---|---|---|---|---|---|\n"
    for (engine, number), figures in rounds.items():
        memory, start, replaced = map(statistics.median, zip(*figures, strict=True))
        alone = statistics.median(start for _, start, _ in rounds[engine, 1])
        text += (
            f"| {engine} | {number} | {memory:.0f} MiB | {start:.2f} s | {start / alone:.2f} | "
            f"{'-' if isnan(replaced) else f'{replaced * 1000:,.0f} ms'} |\n"
        )
    return text


def replacement_seconds(server: Server) -> float:
    """Time from SIGKILL of a worker to its replacement's first answer; NaN without a supervisor.

    All workers are stopped before. So their connections wait in the kernel, and the first answer
    is the replacement's, to one of those that waited for the killed worker.

    Raises:
        RuntimeError: there was no answer.
    """
    workers = children(server.process.pid, WORKER)
    if not workers:
        return nan
    for pid in workers:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.1)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.connect()) for _ in range(REQUESTS)]
        for client in clients:
            client.sendall(f"GET /inference?{QUERY} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        began = time.perf_counter()
        os.kill(workers[0], signal.SIGKILL)
        answered, _, _ = select.select(clients, [], [], READY_SECONDS)
        took = time.perf_counter() - began
        if not answered or not answered[0].recv(100).startswith(b"HTTP/1.1 200 "):
            raise RuntimeError("a killed worker was not replaced")
    for pid in workers[1:]:
        os.kill(pid, signal.SIGCONT)
    return took


FIGURES = (
    ready,
    processes,
    many_connections,
    idle_connections,
    workers,
    counting,
)


def main() -> None:
    for figure in FIGURES:
        print(figure(), flush=True)
    print(describe())


if __name__ == "__main__":
    main()
