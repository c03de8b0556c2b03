"""`make bench-http`: latency of GET /inference over a kept-alive loopback connection.

The server is a process of its own, pinned to core 0; the client is pinned to core 1.
"""

import gc
import os
import socket
import sys
import time

import pyperf

from bench.server import serving

PORT = "CARTPOLE_BENCH_PORT"
SERVER_CPU, CLIENT_CPU = 0, 1
TARGET = "/inference?position=0.0123&velocity=-0.4567&angle=0.0345&angular_velocity=0.789"
REQUEST = f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()


def requests(connection: socket.socket, loops: int) -> float:
    """Seconds that this many requests took, one after the other; each answer is checked."""
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
    bench.argparser.set_defaults(affinity=str(CLIENT_CPU), inherit_environ=[PORT])
    bench.parse_args()
    bench.metadata["description"] = "GET /inference over a kept-alive loopback connection"
    with socket.create_connection(("127.0.0.1", int(os.environ[PORT]))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        gc.collect()
        gc.freeze()
        gc.disable()
        bench.bench_time_func("GET /inference", lambda loops: requests(connection, loops))


def main() -> None:
    if PORT in os.environ or "--help" in sys.argv:  # a worker of pyperf's, or a server of yours
        return measure()
    cores = os.sched_getaffinity(0)
    with serving(cpu=SERVER_CPU if len(cores) > 1 else None) as server:
        os.environ[PORT] = str(server.port)
        measure()


if __name__ == "__main__":
    main()
