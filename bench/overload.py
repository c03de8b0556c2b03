"""`make bench-overload`: twice the service's capacity, over 1,000 connections, for 20 s.

Meanwhile a separate client requests its health, and an inference on a kept connection.
"""

import argparse
import multiprocessing
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.sharedctypes import Synchronized
from typing import NamedTuple

from bench.contenders import SERVER_CPU
from bench.end_to_end import REQUEST, requests
from bench.flood import Flood
from bench.machine import cpu_seconds, describe, resident_mebibytes
from bench.server import Server, serving
from bench.wrk import CLIENT_CPU, measure

CONNECTIONS, SECONDS, TIMES = 1000, 20.0, 2.0
PEAK_SECONDS = 3
SLOW, SLOW_ROUNDS, GOOD_REQUESTS = 500, 5, 5000


class Probe(NamedTuple):
    """One pair of requests of the separate client. Times are in seconds."""

    started: float
    health: float  # on a new connection
    inference: float  # on the kept connection


def watch(port: int, stop: "Synchronized[int]", results: "Connection") -> None:
    """Probe the service about ten times a second until `stop` is set; send the probes."""
    with suppress(OSError):  # wait for the service only, not for the load generator's core
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    probes = []
    with socket.create_connection(("127.0.0.1", port)) as kept:
        while not stop.value:
            started = time.monotonic()
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n")
                if not client.recv(4096).startswith(b"HTTP/1.1 200 "):
                    raise RuntimeError("not ready")
            probes.append(Probe(started, time.monotonic() - started, requests(kept, 1)))
            time.sleep(0.1)
    results.send(probes)


@dataclass
class Overload:
    """The service under a load, seen from outside.

    Attributes:
        before, during, after: median seconds of an inference on the kept connection before the
            load, under it, and from a second after its end.
        health: longest seconds of a health request on a new connection.
        memory: resident MiB at the start and at the end of the load.
        core: processor seconds per second.
    """

    before: float
    during: float
    after: float
    health: float
    memory: tuple[float, float]
    core: float


def watched(server: Server, load: Callable[[], None], drain: Callable[[], None]) -> Overload:
    """Put a load on the server, let it drain, and watch from a second before to two after."""
    pid, stop = server.process.pid, multiprocessing.Value("i", 0)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    watching = multiprocessing.Process(target=watch, args=(server.port, stop, sender))
    watching.start()
    time.sleep(1)
    began, used, memory = time.monotonic(), cpu_seconds(pid), resident_mebibytes(pid)
    load()
    ended, used, grown = time.monotonic(), cpu_seconds(pid) - used, resident_mebibytes(pid)
    drain()
    time.sleep(2)
    stop.value = 1
    probes: list[Probe] = receiver.recv()
    watching.join()

    def inference(start: float, end: float) -> float:
        return statistics.median(one.inference for one in probes if start <= one.started < end)

    return Overload(
        inference(0, began),
        inference(began, ended),
        inference(ended + 1, float("inf")),
        max(one.health for one in probes if began <= one.started < ended),
        (memory, grown),
        used / (ended - began),
    )


def show(name: str, rates: str, seen: Overload) -> None:
    print(
        f"{name}: {rates}; {seen.core:.0%} of its core; health after at most "
        f"{seen.health * 1e3:.0f} ms; resident memory {seen.memory[0]:.0f} to "
        f"{seen.memory[1]:.0f} MiB; another client's request takes {seen.before * 1e6:.0f} µs "
        f"before the load, {seen.during * 1e6:,.0f} µs under it, {seen.after * 1e6:.0f} µs from "
        f"a second after it",
        flush=True,
    )


def overload(http: str, seconds: float) -> None:
    with serving("--http", http, cpu=SERVER_CPU) as server:
        url, pid = f"http://127.0.0.1:{server.port}", server.process.pid

        def closed_loop(connections: int, seconds: float) -> float:
            return measure(url, [pid], connections, round(seconds)).requests_per_second

        peak = closed_loop(64, PEAK_SECONDS)
        rates: list[float] = []
        seen = watched(
            server, lambda: rates.append(closed_loop(CONNECTIONS, seconds)), lambda: None
        )
        show(
            f"--http {http}, {CONNECTIONS} clients that wait for answers",
            f"{rates[0]:,.0f} requests/s, {rates[0] / peak:.2f} of the peak ({peak:,.0f})",
            seen,
        )
        flood = Flood(server, CONNECTIONS, TIMES * max(peak, rates[0]))
        seen = watched(server, lambda: flood.run(seconds), lambda: flood.drain(30))
        show(
            f"--http {http}, {CONNECTIONS} clients that do not wait",
            f"{flood.offered / seconds:,.0f} requests/s offered, {flood.sent / seconds:,.0f} sent, "
            f"{flood.in_time / seconds:,.0f} answered, {flood.in_time / seconds / peak:.2f} of the "
            f"peak; the rest answered {flood.drained:.1f} s later; {flood.lost} connections lost",
            seen,
        )
        flood.close()


def trickle(port: int, stop: "Synchronized[int]") -> None:
    """Send one byte a second on each of many connections; replace those that are closed."""
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
    """p99 of a good client alone and beside slow clients, in interleaved rounds."""
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
        f"p99 of a good client: {alone:.0f} µs alone, {beside:.0f} µs beside {SLOW} connections "
        f"that send a byte a second ({beside / alone:.2f} times)",
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
