"""`make bench-http`: latency of GET /inference over a kept-alive loopback connection.

The server is a process of its own, pinned to core 0; the client is pinned to core 1.
"""

import functools
import gc
import json
import os
import socket
import sys
import time
import urllib.request
from contextlib import ExitStack

import pyperf

from bench.server import serving

PORTS = "CARTPOLE_BENCH_PORTS"  # comma-separated ports of running servers
ENGINES = ("torchscript", "native")
SERVER_CPU, CLIENT_CPU = 0, 1
TARGET = "/inference?position=0.0123&velocity=-0.4567&angle=0.0345&angular_velocity=0.789"
REQUEST = f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def requests(connection: socket.socket, loops: int) -> float:
    """Seconds for this many requests, one after the other; every answer is checked."""
    iterations = range(loops)
    receive, send = connection.recv, connection.sendall
    started = time.perf_counter()
    for _ in iterations:
        send(REQUEST)
        answer = receive(4096)
        while answer and not answer.endswith(b"}"):
            answer += receive(4096)
        if not (answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"}")):
            raise RuntimeError(f"unexpected answer: {answer!r}")
    return time.perf_counter() - started


def measure() -> None:
    bench = pyperf.Runner(processes=5)
    bench.argparser.set_defaults(affinity=str(CLIENT_CPU), inherit_environ=[PORTS])
    bench.parse_args()
    bench.metadata["description"] = "GET /inference over a kept-alive loopback connection"
    gc.collect()
    gc.freeze()
    gc.disable()
    for port in map(int, os.environ[PORTS].split(",")):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready") as ready:
            engine = json.load(ready)["engine"]
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            run = functools.partial(requests, connection)
            bench.bench_time_func(f"GET /inference, {engine}", run)


def main() -> None:
    if PORTS in os.environ or "--help" in sys.argv:  # a pyperf worker, or servers started by hand
        return measure()
    cpu = SERVER_CPU if len(os.sched_getaffinity(0)) > 1 else None
    with ExitStack() as stack:
        servers = [stack.enter_context(serving("--engine", engine, cpu=cpu)) for engine in ENGINES]
        os.environ[PORTS] = ",".join(str(server.port) for server in servers)
        measure()


if __name__ == "__main__":
    main()
