"""`make bench-traffic`: this service and others under the traffic that real clients send.

The server has core 0 to itself, the load core 1. wrk loads as fast as it is answered, h2load at a
fixed rate. Figures are medians over interleaved rounds. `make bench-compare` is its table of kept
connections alone.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from math import nan
from pathlib import Path

from bench.contenders import (
    CONTENDERS,
    PEERS,
    QUERY,
    Contender,
    check,
    environment,
    running,
    with_checkout,
)
from bench.machine import cpu_seconds, describe
from bench.pictures import bars, curves
from bench.record import RESULTS
from bench.tables import Results, ratios, tables
from bench.wrk import CLIENT_CPU, Figures, measure

WARM_UP_SECONDS = 1
CLOSE = ("-H", "Connection: close")
BROWSER = (
    *("-H", "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko)"),
    *("-H", "Accept: application/json, text/plain, */*", "-H", "Accept-Encoding: gzip, deflate"),
    *("-H", "Accept-Language: en-GB,en;q=0.9", "-H", "Cookie: session=3f786850e387550f"),
    *("-H", "X-Forwarded-For: 192.0.2.1"),
)


@dataclass(frozen=True)
class Pattern:
    """One kind of traffic.

    Attributes:
        connections: open at the same time.
        rate: requests a second, of all connections; 0: as many as are answered.
        requests: how many there are; 0: as many as there is time for.
        options: of wrk.
        shows: which figures the table has: rate, p50, p99, cpu.
    """

    name: str
    connections: int
    rate: int = 0
    requests: int = 0
    options: tuple[str, ...] = ()
    shows: tuple[str, ...] = ("p50", "cpu", "requests_per_second")

    @property
    def is_get_only(self) -> bool:
        """Whether a server that takes POST alone can't be measured with it."""
        return bool(self.rate or self.requests or self.options)


KEPT, FIXED_RATE = "Kept connections", "One connection at a fixed rate"
TRACED = ("-s", str(PEERS / "traceparent.lua"), *BROWSER)
KINDS = {
    "Right after the start": [
        Pattern(
            "the first request of each of 64 connections", 64, requests=64, shows=("p50", "p99")
        )
    ],
    KEPT: [Pattern(f"{number}", number) for number in (1, 2, 8, 64)],
    FIXED_RATE: [
        Pattern(f"{rate} a second", 1, rate, shows=("p50", "p99", "cpu"))
        for rate in (20, 200, 1000, 5000)
    ],
    "64 connections, eight headers": [
        Pattern("the same on each request", 64, options=BROWSER, shows=("cpu",)),
        Pattern("a traceparent of its own on each", 64, options=TRACED, shows=("cpu",)),
    ],
    "A connection for each request": [
        Pattern(f"{number} clients", number, options=CLOSE, shows=("cpu", "requests_per_second"))
        for number in (1, 64)
    ],
}


def at_rate(url: str, pid: int, rate: int, seconds: int, connections: int = 1) -> Figures:
    """Load with h2load, with so many requests a second over all connections together.

    A server that does not keep up has no latencies: they are NaN.
    """
    options = [f"-c{connections}", f"--rps={rate / connections:g}", f"--duration={seconds}"]
    before = cpu_seconds(pid)
    latencies = h2load(url, *options)
    used = cpu_seconds(pid) - before
    if len(latencies) < 0.95 * rate * seconds:
        return Figures(len(latencies) / seconds, nan, nan, nan)
    cuts = statistics.quantiles(latencies, n=100)
    return Figures(rate, cuts[49], cuts[98], used / len(latencies) * 1e6)


def first(url: str, requests: int) -> Figures:
    """Latencies of so many requests, each on a connection of its own. The worst counts as p99."""
    latencies = h2load(url, f"-c{requests}", f"-n{requests}")
    return Figures(0, statistics.median(latencies), max(latencies), 0)


def h2load(url: str, *options: str) -> list[float]:
    """Load with h2load. Returns the latency of each request, in microseconds.

    Raises:
        RuntimeError: a request was answered with another status than 200.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = ["taskset", "-c", str(CLIENT_CPU), "h2load", "--h1", *options]
        command += [f"--log-file={log}", f"{url}/inference?{QUERY}"]
        subprocess.run(command, check=True, capture_output=True)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    if any(row[1] != "200" for row in rows):
        raise RuntimeError(f"statuses: {sorted({row[1] for row in rows})}")
    return [float(row[2]) for row in rows]


def run(pattern: Pattern, contender: Contender, url: str, pid: int, seconds: int) -> Figures:
    if pattern.requests:
        figures = first(url, pattern.requests)
        measure(url, [pid], 8, WARM_UP_SECONDS)  # for the other patterns
        return figures
    if pattern.rate:
        # Enough requests for a 99th percentile at low rates.
        return at_rate(url, pid, pattern.rate, max(seconds, 200 // pattern.rate))
    options = ("-s", str(PEERS / "post.lua")) if contender.post else pattern.options
    return measure(url, [pid], pattern.connections, seconds, options)


def rounds(
    contenders: Sequence[Contender],
    kinds: Mapping[str, Sequence[Pattern]],
    number: int,
    seconds: int,
) -> Results:
    """Measure each contender with each pattern, once in each round."""
    results: Results = {kind: {pattern.name: {} for pattern in kinds[kind]} for kind in kinds}
    for contender in contenders:
        environment(contender)
    for turn in range(number):
        for contender in contenders:
            with running(contender) as (url, pid):
                check(contender, url)
                measured = [
                    (results[kind][pattern.name], pattern)
                    for kind, patterns in kinds.items()
                    for pattern in patterns
                    if not (contender.post and pattern.is_get_only)
                ]
                if not measured[0][1].requests:
                    options = ("-s", str(PEERS / "post.lua")) if contender.post else ()
                    measure(url, [pid], 8, WARM_UP_SECONDS, options)
                for by_server, pattern in measured:
                    figures = run(pattern, contender, url, pid, seconds)
                    by_server.setdefault(contender.name, []).append(figures)
            print(f"{turn + 1}/{number} {contender.name}", flush=True)
    return results


def keep(results: Results, text: str) -> Path:
    """Write tables, raw figures and pictures. Returns their path without suffix."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"traffic-{datetime.now():%Y%m%d-%H%M%S}"
    stem.with_suffix(".md").write_text(text)
    raw = {
        kind: {
            pattern: {server: [asdict(each) for each in figures] for server, figures in by.items()}
            for pattern, by in patterns.items()
        }
        for kind, patterns in results.items()
    }
    stem.with_suffix(".json").write_text(json.dumps({"machine": describe(), "results": raw}))
    if KEPT in results:
        bars(results[KEPT], stem.with_suffix(".kept.svg"))
    if FIXED_RATE in results:
        curves(
            {kind: results[kind] for kind in results if kind in (KEPT, FIXED_RATE)},
            stem.with_suffix(".svg"),
        )
    return stem


def chosen(arguments: argparse.Namespace) -> list[Contender]:
    """The contenders that the command line names."""
    contenders = [c for c in CONTENDERS if not arguments.only or c.name in arguments.only]
    for extra in arguments.extra:
        name, _, url = extra.partition("=")
        contenders.append(Contender(name, url=url.rstrip("/")))
    return contenders


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--kind", action="append", choices=list(KINDS), help="may be repeated")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of cartpole")
    arguments = parser.parse_args()
    missing = [name for name in ("wrk", "h2load", "taskset", "nginx") if not shutil.which(name)]
    if missing or len(os.sched_getaffinity(0)) < 2:
        lacks = ", ".join(missing) or "a second core, for the load"
        print(f"traffic: this machine lacks {lacks}", file=sys.stderr)
        return 1
    kinds = {kind: KINDS[kind] for kind in arguments.kind or KINDS}
    contenders, pairs, unpaired = chosen(arguments), dict[str, str](), list[str]()
    if arguments.against:
        contenders, pairs, unpaired = with_checkout(contenders, arguments.against.resolve())
    results = rounds(contenders, kinds, arguments.rounds, arguments.seconds)
    shows = {kind: patterns[0].shows for kind, patterns in kinds.items()}
    text = tables(results, shows)
    if pairs:
        text += ratios(results, shows, pairs)
    if unpaired:
        text += f"The other checkout lacks flags of {', '.join(unpaired)}.\n\n"
    text += f"Medians of {arguments.rounds} rounds of {arguments.seconds} s. {describe()}\n"
    print(f"\n{text}\nkept: {keep(results, text)}.md, .json and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
