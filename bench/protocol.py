"""`make bench-protocol`: the service's processor time for infer, against that of GET /inference.

Logits are asked for in binary. The service has core 0, wrk core 1; rounds are interleaved.
"""

import argparse
import os
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.machine import describe
from bench.server import Server, serving
from bench.wrk import measure

INFER = ("-s", "bench/peers/infer.lua")


@dataclass(frozen=True)
class Load:
    """One kind of request, over so many connections.

    Attributes:
        rows: of each infer request; 0 for GET /inference.
        asgi: of a service that answers GET /inference through the application.
    """

    name: str
    connections: int
    rows: int = 0
    asgi: bool = False


GET = Load("GET /inference, 64 connections", 64)
ASGI_64 = Load("GET /inference with --http asgi, 64 connections", 64, asgi=True)
ASGI_1 = Load("GET /inference with --http asgi, 1 connection", 1, asgi=True)
ROWS_16 = Load("64 rows, 16 connections", 16, 64)
ROWS_1 = Load("64 rows, 1 connection", 1, 64)
ROW_64 = Load("1 row, 64 connections", 64, 1)
ROW_1 = Load("1 row, 1 connection", 1, 1)
LOADS = (GET, ASGI_64, ASGI_1, ROWS_16, ROWS_1, ROW_64, ROW_1)

# The processor time for a row of the first may be at most so many times that of the second.
BARS = ((ROWS_16, GET, 0.2), (ROWS_1, GET, 0.3), (ROW_64, ASGI_64, 2.0), (ROW_1, ASGI_1, 2.0))

Results = dict[Load, list[float]]  # microseconds of processor time for a request


def run(load: Load, server: Server, seconds: int) -> float:
    """Microseconds of the service's processor time for a request of this load."""
    os.environ["ROWS"] = str(load.rows)
    url = f"http://127.0.0.1:{server.port}"
    options: Sequence[str] = INFER if load.rows else ()
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("flags", nargs="*", help="of the service, after --")
    arguments = parser.parse_args()
    results: Results = {load: [] for load in LOADS}
    with (
        serving(*arguments.flags, cpu=0) as fast,
        serving(*arguments.flags, "--http", "asgi", cpu=0) as asgi,
    ):
        for load in LOADS:
            run(load, asgi if load.asgi else fast, 1)  # warms up
        for number in range(arguments.rounds):
            for load, times in results.items():
                times.append(run(load, asgi if load.asgi else fast, arguments.seconds))
            print(f"{number + 1}/{arguments.rounds}", flush=True)
    print(table(results))
    print(f"\nMedians of {arguments.rounds} rounds of {arguments.seconds} s. {describe()}")


if __name__ == "__main__":
    main()
