"""`make bench-protocol`: the service's processor time for infer, against that of GET /inference.

Logits are asked for in binary. The service has core 0, wrk core 1; rounds are interleaved. With
`--against DIR`, each load also goes to another checkout of cartpole.
"""

import argparse
import os
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.contenders import PEERS, SERVE
from bench.machine import describe
from bench.server import Server, serving
from bench.wrk import measure


@dataclass(frozen=True)
class Load:
    """One kind of request, over so many connections.

    Attributes:
        rows: of each infer request; 0 for GET.
        asgi: of a service that answers GET /inference through the application.
        target: of GET, if not /inference.
    """

    name: str
    connections: int
    rows: int = 0
    asgi: bool = False
    target: str = ""


GET = Load("GET /inference, 64 connections", 64)
ASGI_64 = Load("GET /inference with --http asgi, 64 connections", 64, asgi=True)
ASGI_1 = Load("GET /inference with --http asgi, 1 connection", 1, asgi=True)
ROWS_16 = Load("64 rows, 16 connections", 16, 64)
ROWS_1 = Load("64 rows, 1 connection", 1, 64)
ROW_64 = Load("1 row, 64 connections", 64, 1)
ROW_1 = Load("1 row, 1 connection", 1, 1)
ROWS_4 = Load("1,000 rows, 4 connections", 4, 1000)
TARGETS = [
    Load(f"GET {target}, {number} connections", number, target=target)
    for target, number in (("/health/live", 64), ("/v2", 64), ("/metrics", 4))
]
LOADS = (GET, ASGI_64, ASGI_1, ROWS_16, ROWS_1, ROW_64, ROW_1, ROWS_4, *TARGETS)

# The processor time for a row of the first may be at most so many times that of the second.
BARS = ((ROWS_16, GET, 0.2), (ROWS_1, GET, 0.3), (ROW_64, ASGI_64, 2.0), (ROW_1, ASGI_1, 2.0))

Results = dict[Load, list[float]]  # microseconds of processor time for a request


def run(load: Load, server: Server, seconds: int) -> float:
    """Microseconds of the service's processor time for a request of this load."""
    os.environ["ROWS"], os.environ["TARGET"] = str(load.rows), load.target
    url = f"http://127.0.0.1:{server.port}"
    script = "infer.lua" if load.rows else "target.lua" if load.target else ""
    options = ("-s", str(PEERS / script)) if script else ()
    return measure(url, [server.process.pid], load.connections, seconds, options).cpu


def table(results: Results) -> str:
    """Markdown: the time of each load, then the bars."""
    median = {load: statistics.median(times) for load, times in results.items()}
    rows = ["| | CPU per request | per row |", "|---|---|---|"]
    for load, microseconds in median.items():
        each = microseconds / max(1, load.rows)
        rows.append(f"| {load.name} | {microseconds:.1f} µs | {each:.2f} µs |")
    rows += ["", "| a row of | against | ratio | at most |", "|---|---|---|---|"]
    for load, other, most in BARS:
        ratio = median[load] / load.rows / median[other]
        rows.append(f"| {load.name} | {other.name} | {ratio:.3f} | {most} |")
    return "\n".join(rows)


def compared(results: Results, others: Results) -> str:
    """Markdown: each load as a multiple of the other checkout's."""
    rows = ["", "| | other | ratio | its range |", "|---|---|---|---|"]
    for load, times in results.items():
        other = statistics.median(others[load])
        spread = f"{min(others[load]) / other:.2f} to {max(others[load]) / other:.2f}"
        rows.append(
            f"| {load.name} | {other:.1f} µs | {statistics.median(times) / other:.3f} | {spread} |"
        )
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of cartpole")
    parser.add_argument("flags", nargs="*", help="of the service, after --")
    arguments = parser.parse_args()
    checkouts = [Path.cwd(), *([arguments.against.resolve()] if arguments.against else [])]
    results: list[Results] = [{load: [] for load in LOADS} for _ in checkouts]
    with ExitStack() as stack:
        servers: list[dict[bool, Server]] = []  # of each checkout: whether it is the one for ASGI
        for checkout in checkouts:
            command = ("env", "-C", str(checkout), *SERVE, *arguments.flags)
            ways = {False: command, True: (*command, "--http", "asgi")}
            servers.append(
                {
                    asgi: stack.enter_context(serving(command=way, cpu=0))
                    for asgi, way in ways.items()
                }
            )
        for number in range(-1, arguments.rounds):  # the first one warms up
            for load in LOADS:
                for by_way, times in zip(servers, results, strict=True):
                    microseconds = run(load, by_way[load.asgi], arguments.seconds)
                    if number >= 0:
                        times[load].append(microseconds)
            print(f"{number + 1}/{arguments.rounds}", flush=True)
    print(table(results[0]))
    if arguments.against:
        print(compared(*results))
    print(f"\nMedians of {arguments.rounds} rounds of {arguments.seconds} s. {describe()}")


if __name__ == "__main__":
    main()
