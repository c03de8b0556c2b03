"""`make bench-traffic`: what real clients send: few connections, low rates, new connections.

The server has core 0 to itself, the load core 1. wrk loads as fast as it is answered, h2load at a
fixed rate. Figures are medians over interleaved rounds.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import datetime
from math import isnan, nan
from pathlib import Path

from bench.contenders import CONTENDERS, PEERS, QUERY, Contender, check, running
from bench.machine import cpu_seconds, describe
from bench.record import RESULTS
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


TRACED = ("-s", str(PEERS / "traceparent.lua"), *BROWSER)
PATTERNS = {
    "Right after the start": [
        Pattern(
            "the first request of each of 64 connections", 64, requests=64, shows=("p50", "p99")
        )
    ],
    "Kept connections": [Pattern(f"{number}", number) for number in (1, 2, 8, 64)],
    "One connection at a fixed rate": [
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
UNITS = {"p50": "p50 µs", "p99": "p99 µs", "cpu": "CPU µs", "requests_per_second": "requests/s"}

Results = dict[str, dict[str, list[Figures]]]  # by pattern, then by server


def at_rate(url: str, pid: int, rate: int, seconds: int, connections: int = 1) -> Figures:
    """Load with h2load, with so many requests a second over all connections together.

    A server that does not keep up has no latencies: they are NaN.
    """
    options = [f"-c{connections}", f"--rps={rate / connections:g}", f"--duration={seconds}"]
    before = cpu_seconds(pid) if pid else 0.0
    latencies = h2load(url, *options)
    used = cpu_seconds(pid) - before if pid else 0.0
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


def run(pattern: Pattern, url: str, pid: int, seconds: int) -> Figures:
    if pattern.requests:
        figures = first(url, pattern.requests)
        measure(url, pid, 8, WARM_UP_SECONDS)  # for the other patterns
        return figures
    if pattern.rate:
        # Enough requests for a 99th percentile at low rates.
        return at_rate(url, pid, pattern.rate, max(seconds, 200 // pattern.rate))
    return measure(url, pid, pattern.connections, seconds, pattern.options)


def rounds(contenders: list[Contender], number: int, seconds: int) -> Results:
    results: Results = {}
    for turn in range(number):
        for contender in contenders:
            with running(contender) as (url, pid):
                check(contender, url)
                for title, patterns in PATTERNS.items():
                    for pattern in patterns:
                        figures = run(pattern, url, pid, seconds)
                        by_server = results.setdefault(f"{title}: {pattern.name}", {})
                        by_server.setdefault(contender.name, []).append(figures)
            print(f"{turn + 1}/{number} {contender.name}", flush=True)
    return results


def median(figures: list[Figures], field: str) -> float:
    values: list[float] = [getattr(each, field) for each in figures]
    return statistics.median(values)


def shown(value: float) -> str:
    if isnan(value):
        return "too slow"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def tables(results: Results) -> str:
    """Markdown: a table for each title of PATTERNS, a row for each server."""
    text = []
    for title, patterns in PATTERNS.items():
        shows = patterns[0].shows
        heads = [pattern.name for pattern in patterns]
        text.append(f"**{title}** ({' / '.join(UNITS[field] for field in shows)})\n")
        text.append(f"| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}")
        for server in results[f"{title}: {heads[0]}"]:
            cells = []
            for head in heads:
                figures = results[f"{title}: {head}"][server]
                values = (median(figures, field) for field in shows)
                cells.append(" / ".join(map(shown, values)))
            text.append(f"| {server} | {' | '.join(cells)} |")
        text.append("")
    return "\n".join(text)


def picture(results: Results, path: Path) -> None:
    """Latency of few connections and of low rates, a group of bars for each pattern."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot, ticker

    titles = ["Kept connections", "One connection at a fixed rate"]
    figure, axes = pyplot.subplots(1, 2, figsize=(13, 4.2))
    for axis, title in zip(axes, titles, strict=True):
        names = [pattern.name for pattern in PATTERNS[title]]
        servers = list(results[f"{title}: {names[0]}"])
        for number, server in enumerate(servers):
            heights = [median(results[f"{title}: {name}"][server], "p50") for name in names]
            width = 0.8 / len(servers)
            places = [place + number * width for place in range(len(names))]
            ours = server.startswith("cartpole")
            shade = 0.35 + 0.6 * (number % 4) / 4
            color = (0.12, 0.43, 0.92, shade) if ours else (0.45, 0.5, 0.56, shade)
            axis.bar(places, heights, width, label=server, color=color)
        axis.set_xticks([place + 0.4 for place in range(len(names))], names)
        axis.set_title(f"{title}: p50, µs", fontsize=10)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME=URL")
    arguments = parser.parse_args()
    if missing := [
        name for name in ("wrk", "h2load", "taskset", "nginx") if not shutil.which(name)
    ]:
        print(f"traffic: this machine lacks {', '.join(missing)}", file=sys.stderr)
        return 1
    contenders = [
        contender
        for contender in CONTENDERS
        if not contender.post and (not arguments.only or contender.name in arguments.only)
    ]
    for extra in arguments.extra:
        name, _, url = extra.partition("=")
        contenders.append(Contender(name, url=url.rstrip("/")))
    results = rounds(contenders, arguments.rounds, arguments.seconds)
    how = f"Medians of {arguments.rounds} rounds of {arguments.seconds} s. {describe()}"
    text = f"{tables(results)}\n{how}\n"
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"traffic-{datetime.now():%Y%m%d-%H%M%S}"
    stem.with_suffix(".md").write_text(text)
    raw = {
        pattern: {server: [asdict(each) for each in figures] for server, figures in by.items()}
        for pattern, by in results.items()
    }
    stem.with_suffix(".json").write_text(json.dumps({"machine": describe(), "results": raw}))
    picture(results, stem.with_suffix(".svg"))
    print(f"\n{text}\nkept: {stem}.md, .json and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
