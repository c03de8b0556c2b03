"""`make bench-overload`: twice what the service can do, over 1,000 connections, for 20 s.

Meanwhile a client of its own asks for health, and for an inference on a connection that it keeps.
"""

import argparse
import multiprocessing
import os
import re
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from bench.contenders import SERVER_CPU
from bench.end_to_end import REQUEST, requests
from bench.flood import Flood
from bench.machine import cpu_seconds, describe
from bench.server import Server, serving
from bench.wrk import CLIENT_CPU, measure

CONNECTIONS, SECONDS, TIMES = 1000, 20.0, 2.0
PEAK_SECONDS = 3
SLOW, SLOW_ROUNDS, GOOD_REQUESTS = 500, 5, 5000


Waits = list[
    tuple[float, float, float]
]  # when, health on a new connection, inference on a kept one


def watch(port: int, stop: "Synchronized[int]", told: "Connection") -> None:
    """A client of its own, ten times a second; all in seconds."""
    with suppress(OSError):  # it should wait for the service, not for the generator's core
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    waits = []
    with socket.create_connection(("127.0.0.1", port)) as kept:
        while not stop.value:
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
                if not client.recv(4096).startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError("not ready")
            waits.append((started, time.monotonic() - started, requests(kept, 1)))
            time.sleep(0.1)
    told.send(waits)


def resident(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024


@dataclass
class Overload:
    """What was seen from outside while it lasted, and after."""

    before: float  # a lone kept connection's request, seconds, median
    during: float
    after: float  # from a second after the end on
    health: float  # the longest wait on a new connection
    memory: tuple[float, float]
    core: float  # processor seconds a second


def watched(server: Server, load: Callable[[], None], rest: Callable[[], None]) -> Overload:
    pid, stop = server.process.pid, multiprocessing.Value("i", 0)
    told, telling = multiprocessing.Pipe(duplex=False)
    watching = multiprocessing.Process(target=watch, args=(server.port, stop, telling))
    watching.start()
    time.sleep(1)
    began, used, memory = time.monotonic(), cpu_seconds(pid), resident(pid)
    load()
    ended, used, grown = time.monotonic(), cpu_seconds(pid) - used, resident(pid)
    rest()
    time.sleep(2)
    stop.value = 1
    waits: Waits = told.recv()
    watching.join()

    def kept(start: float, end: float) -> float:
        return statistics.median(wait for when, _, wait in waits if start <= when < end)

    return Overload(
        kept(0, began),
        kept(began, ended),
        kept(ended + 1, float("inf")),
        max(wait for when, wait, _ in waits if began <= when < ended),
        (memory, grown),
        used / (ended - began),
    )


def show(name: str, share: str, seen: Overload) -> None:
    print(
        f"{name}: {share}, with {seen.core:.0%} of its core; health at most "
        f"{seen.health * 1e3:.0f} ms; resident {seen.memory[0]:.0f} to {seen.memory[1]:.0f} MiB; "
        f"another client's request took {seen.before * 1e6:.0f} µs before, "
        f"{seen.during * 1e6:,.0f} during, {seen.after * 1e6:.0f} from a second after",
        flush=True,
    )


def overload(http: str, seconds: float) -> None:
    with serving("--http", http, cpu=SERVER_CPU) as server:
        url, pid = f"http://127.0.0.1:{server.port}", server.process.pid

        def closed_loop(connections: int, seconds: float) -> float:
            return measure(url, pid, connections, round(seconds)).requests_per_second

        peak = closed_loop(64, PEAK_SECONDS)
        rates: list[float] = []
        seen = watched(
            server, lambda: rates.append(closed_loop(CONNECTIONS, seconds)), lambda: None
        )
        show(
            f"--http {http}, {CONNECTIONS} clients that wait for answers",
            f"{rates[0]:,.0f} a second, {rates[0] / peak:.2f} of the peak ({peak:,.0f})",
            seen,
        )
        flood = Flood(server, CONNECTIONS, TIMES * max(peak, rates[0]))
        seen = watched(server, lambda: flood.run(seconds), lambda: flood.drain(30))
        show(
            f"--http {http}, {CONNECTIONS} that do not wait",
            f"{flood.offered / seconds:,.0f} a second offered, {flood.sent / seconds:,.0f} taken, "
            f"{flood.in_time / seconds:,.0f} answered, {flood.in_time / seconds / peak:.2f} of the "
            f"peak, the rest {flood.drained:.1f} s later, {flood.lost} connections lost",
            seen,
        )
        flood.close()


def trickle(port: int, stop: "Synchronized[int]") -> None:
    """Send a byte a second on each of many connections. A closed one is opened again."""
    clients: list[socket.socket] = []
    sent = 0
    while not stop.value:
        while len(clients) < SLOW:
            clients.append(socket.create_connection(("127.0.0.1", port)))
        started, byte = time.monotonic(), REQUEST[sent % 8 : sent % 8 + 1]
        for number, client in enumerate(clients):
            time.sleep(max(0.0, started + number / SLOW - time.monotonic()))
            try:
                client.send(byte)
            except OSError:
                client.close()
                clients[number] = socket.create_connection(("127.0.0.1", port))
        sent += 1


def beside_slow_clients() -> None:
    """A good client's p99, alone and beside slow ones, in turns."""
    p99: dict[bool, list[float]] = {False: [], True: []}
    with serving("--head-timeout", "30", cpu=SERVER_CPU) as server:
        for _ in range(SLOW_ROUNDS):
            for slow in (False, True):
                stop = multiprocessing.Value("i", 0)
                others = multiprocessing.Process(target=trickle, args=(server.port, stop))
                if slow:
                    others.start()
                    time.sleep(1)
                with socket.create_connection(("127.0.0.1", server.port)) as client:
                    requests(client, 100)
                    took = [requests(client, 1) for _ in range(GOOD_REQUESTS)]
                p99[slow].append(statistics.quantiles(took, n=100)[98] * 1e6)
                stop.value = 1
                if slow:
                    others.join()
    alone, beside = (statistics.median(values) for values in p99.values())
    print(
        f"a good client's p99: {alone:.0f} µs alone, {beside:.0f} µs beside {SLOW} connections "
        f"that send a byte a second, {beside / alone:.2f} of it",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    seconds = parser.parse_args().seconds
    os.sched_setaffinity(0, {CLIENT_CPU})
    beside_slow_clients()
    for http in ("fast", "asgi"):
        overload(http, seconds)
    print(describe())


if __name__ == "__main__":
    main()
