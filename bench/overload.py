"""`make bench-overload`: twice what the service can do, over 1,000 connections, for 20 s.

Requests fall due at a constant rate, whatever was answered, in small groups on connections in turn.
A group that a connection does not take (the service has stopped reading there) is held back and
counted. Meanwhile a client of its own asks for health, and one for inference before and after.
"""

import argparse
import multiprocessing
import os
import re
import select
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
from bench.machine import cpu_seconds, describe
from bench.server import Server, serving
from bench.wrk import CLIENT_CPU, measure

CONNECTIONS, SECONDS, TIMES = 1000, 20.0, 2.0
PEAK_SECONDS = 3
SLOW, SLOW_ROUNDS, GOOD_REQUESTS = 500, 5, 5000
TICK = 0.02
SEND_BYTES = 4096  # that the generator's own kernel keeps of a connection
GROUP = 4  # requests of one write, at the least; the same for all, so that a tick is affordable


class Flood:
    """Connections, and what became of what was due on them."""

    def __init__(self, server: Server, rate: float) -> None:
        self._rate = rate
        self._poll = select.epoll()
        self._clients = {}
        for _ in range(CONNECTIONS):
            client = socket.create_connection(("127.0.0.1", server.port))
            requests(client, 1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
            client.setblocking(False)
            self._clients[client.fileno()] = client
            self._poll.register(client, select.EPOLLIN)
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(REQUEST)
            self._size = len(client.recv(4096))
        self._cut: dict[int, bytes] = {}  # what a connection has not taken of its last group
        self._bytes = 0
        self.offered = self.sent = self.in_time = self.lost = 0
        self.drained = 0.0

    def run(self, seconds: float) -> None:
        """Offer for so long."""
        group = max(GROUP, round(self._rate * TICK / CONNECTIONS))
        order = list(self._clients)
        started = time.monotonic()
        turn = 0
        while (elapsed := time.monotonic() - started) < seconds:
            while self.offered < elapsed * self._rate:
                self._offer(order[turn % CONNECTIONS], group)
                turn += 1
            self._read(0.001)
        self.in_time = self._bytes // self._size

    def _offer(self, connection: int, group: int) -> None:
        self.offered += group
        if connection not in self._clients:
            return
        rest = self._cut.pop(connection, b"")
        try:
            data = rest or REQUEST * group
            taken = self._clients[connection].send(data)
        except BlockingIOError:
            taken = 0
        except OSError:
            return
        if taken < len(data) and (rest or taken):
            self._cut[connection] = data[taken:]
        if not rest and taken:
            self.sent += group

    def _read(self, wait: float) -> None:
        for connection, _ in self._poll.poll(wait):
            try:
                data = self._clients[connection].recv(262144)
            except OSError:
                data = b""
            self._bytes += len(data)
            if not data:
                self.lost += 1
                self._poll.unregister(connection)
                self._clients.pop(connection).close()

    def drain(self, seconds: float) -> None:
        """Read on, until what was sent before is answered."""
        started = time.monotonic()
        last = started
        while time.monotonic() - started < seconds and time.monotonic() - last < 0.3:
            before = self._bytes
            self._read(0.01)
            last = time.monotonic() if self._bytes > before else last
        self.drained = last - started

    def close(self) -> None:
        for client in self._clients.values():
            client.close()


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
        flood = Flood(server, TIMES * max(peak, rates[0]))
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
    """A byte a second on each of many connections; who is refused comes again."""
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
