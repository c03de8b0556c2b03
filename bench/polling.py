"""`make bench-polling`: what `--poll auto` costs or gains beside `never`, wherever it could cost.

For each pattern: the ratio of requests a second, of the median latency and of the processor time
per request, auto to never. Medians over interleaved rounds; at a fixed rate the first ratio is 1.
"""

import argparse
from dataclasses import dataclass

from bench.machine import describe
from bench.server import serving
from bench.tables import median
from bench.traffic import at_rate
from bench.wrk import CLIENT_CPU, Figures, measure


@dataclass(frozen=True)
class Place:
    """Where service and client run.

    Attributes:
        cpu: the service's core; None: any core.
        client_cpu: the client's core.
        connections: patterns of a client that asks again as soon as it is answered.
        rates: patterns of four connections that ask so many times a second together.
    """

    name: str
    workers: int = 1
    cpu: int | None = 0
    client_cpu: int | None = CLIENT_CPU
    connections: tuple[int, ...] = ()
    rates: tuple[int, ...] = ()


PLACES = [
    Place("a core each", connections=(1, 2, 8, 64), rates=(1000, 5000, 10_000)),
    Place("the client on the same core", client_cpu=0, connections=(1, 2, 8, 64)),
    Place("two workers on one core", workers=2, connections=(1, 2, 8, 64)),
    Place("four workers and the client on all cores", 4, None, None, (1, 2, 8, 64)),
]

Results = dict[tuple[str, str], dict[str, list[Figures]]]  # by place and pattern, then by --poll


def run(place: Place, poll: str, flags: list[str], seconds: int, results: Results) -> None:
    flags = [*flags, "--poll", poll, "--workers", str(place.workers)]
    with serving(*flags, cpu=place.cpu) as server:
        server.wait_for_workers(place.workers)
        url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
        measure(url, [pid], 8, 1)  # warms up
        for connections in place.connections:
            figures = measure(url, [pid], connections, seconds, cpu=place.client_cpu)
            pattern = f"{connections} connections" if connections > 1 else "1 connection"
            results.setdefault((place.name, pattern), {}).setdefault(poll, []).append(figures)
        for rate in place.rates:
            figures = at_rate(url, pid, rate, seconds, connections=4)
            pattern = f"{rate:,} a second"
            results.setdefault((place.name, pattern), {}).setdefault(poll, []).append(figures)


def table(results: Results) -> str:
    """Markdown: a row for each pattern."""
    rows = ["| | | requests | p50 | CPU |", "|---|---|---|---|---|"]
    for (place, pattern), by_poll in results.items():
        ratios = []
        for name in ("requests_per_second", "p50", "cpu"):
            ratios.append(f"{median(by_poll['auto'], name) / median(by_poll['never'], name):.2f}")
        rows.append(f"| {place} | {pattern} | {' | '.join(ratios)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement")
    parser.add_argument("--place", action="append", choices=[place.name for place in PLACES])
    parser.add_argument("flags", nargs="*", help="of the service, after --")
    arguments = parser.parse_args()
    places = [one for one in PLACES if not arguments.place or one.name in arguments.place]
    results: Results = {}
    for number in range(arguments.rounds):
        for place in places:
            for poll in ("auto", "never"):
                run(place, poll, arguments.flags, arguments.seconds, results)
        print(f"{number + 1}/{arguments.rounds}", flush=True)
    print(table(results))
    print(f"\nMedians of {arguments.rounds} rounds of {arguments.seconds} s. {describe()}")


if __name__ == "__main__":
    main()
