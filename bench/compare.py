"""`make bench-compare`: this service and others, in interleaved rounds of wrk.

The server has core 0 to itself, wrk core 1. Figures are medians over the rounds.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
from datetime import datetime
from pathlib import Path

from bench.contenders import (
    CONTENDERS,
    FLOOR,
    PEERS,
    SERVE,
    Contender,
    check,
    environment,
    flags_of,
    from_checkout,
    running,
)
from bench.machine import describe
from bench.record import RESULTS
from bench.wrk import Figures, measure

CONNECTIONS = (1, 64)

Results = dict[str, dict[int, list[Figures]]]


def median(rounds: list[Figures]) -> Figures:
    return Figures(
        *(
            statistics.median(getattr(figures, name) for figures in rounds)
            for name in Figures.__dataclass_fields__
        )
    )


def table(results: Results) -> str:
    """Markdown: medians, and in parentheses the multiple of the fixed answer's."""
    one, many = CONNECTIONS
    lines = [
        f"| server | {many} connections: requests/s | CPU µs a request | p99 µs "
        f"| {one} connection: p50 µs | p99 µs | CPU µs a request |",
        "|---|---|---|---|---|---|---|",
    ]
    floor = results.get(FLOOR)
    for name, by_connections in results.items():
        cells = []
        for connections, names in ((many, "requests_per_second cpu p99"), (one, "p50 p99 cpu")):
            figures = median(by_connections[connections])
            for field in names.split():
                value = getattr(figures, field)
                cell = f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
                if floor and name != FLOOR and value:
                    times = value / getattr(median(floor[connections]), field)
                    cell += f" ({times:.2f})"
                cells.append(cell)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ratios(results: Results, pairs: dict[str, str], checkout: str) -> str:
    """Markdown: our medians as multiples of those of another checkout, which has this name."""
    one, many = CONNECTIONS
    lines = [
        f"| CPU and rates, this checkout / {checkout} "
        f"| {many} connections: requests/s | CPU a request "
        f"| {one} connection: p50 | CPU a request |",
        "|---|---|---|---|---|",
    ]
    for name, other in pairs.items():
        cells = []
        for connections, field in (
            (many, "requests_per_second"),
            (many, "cpu"),
            (one, "p50"),
            (one, "cpu"),
        ):
            now, then = (median(results[each][connections]) for each in (name, other))
            cells.append(f"{getattr(now, field) / getattr(then, field):.3f}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def picture(results: Results, path: Path) -> None:
    """Bars of the three figures that matter, with a logarithmic axis."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    one, many = CONNECTIONS
    panels = [
        (f"requests a second, {many} connections", many, "requests_per_second"),
        (f"CPU µs a request, {many} connections", many, "cpu"),
        (f"p50 µs, {one} connection", one, "p50"),
    ]
    names = list(results)[::-1]
    colors = ["#1f6feb" if name.startswith("cartpole") else "#9aa4b2" for name in names]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 0.45 * len(names) + 1.1), sharey=True)
    for axis, (title, connections, field) in zip(axes, panels, strict=True):
        values = [getattr(median(results[name][connections]), field) for name in names]
        bars = axis.barh(names, values, color=colors)
        axis.bar_label(bars, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(right=max(values) * 4)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(axis="y", length=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def compare(contenders: list[Contender], rounds: int, seconds: int) -> Results:
    results: Results = {c.name: {n: [] for n in CONNECTIONS} for c in contenders}
    for contender in contenders:
        environment(contender)
    for number in range(1, rounds + 1):
        for contender in contenders:
            with running(contender) as (url, pid):
                check(contender, url)
                options = ("-s", str(PEERS / "post.lua")) if contender.post else ()
                measure(url, pid, CONNECTIONS[-1], 1, options)  # warms up
                for connections in CONNECTIONS:
                    figures = measure(url, pid, connections, seconds, options)
                    results[contender.name][connections].append(figures)
                    print(
                        f"{number}/{rounds} {contender.name}, {connections}: {figures}", flush=True
                    )
    return results


def keep(results: Results, text: str) -> Path:
    """Write the table, the raw figures and the picture. Returns their path without suffix."""
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"compare-{datetime.now():%Y%m%d-%H%M%S}"
    stem.with_suffix(".md").write_text(text)
    raw = {
        name: {n: [vars(f) for f in rounds] for n, rounds in by.items()}
        for name, by in results.items()
    }
    stem.with_suffix(".json").write_text(json.dumps({"machine": describe(), "results": raw}))
    picture(results, stem.with_suffix(".svg"))
    return stem


def with_checkout(
    contenders: list[Contender], checkout: Path
) -> tuple[list[Contender], dict[str, str], list[str]]:
    """Put each of our servers beside the same one of another checkout.

    Returns:
        all contenders; the pairs, ours to the other's name; and the names of our servers that the
        other checkout can't start, because it does not know one of their flags.
    """
    known = flags_of(checkout)
    both: list[Contender] = []
    pairs: dict[str, str] = {}
    unpaired: list[str] = []
    for contender in contenders:
        both.append(contender)
        if contender.command[: len(SERVE)] != SERVE:
            continue
        if {part for part in contender.command if part.startswith("--")} <= known:
            both.append(from_checkout(contender, checkout))
            pairs[contender.name] = both[-1].name
        else:
            unpaired.append(contender.name)
    return both, pairs, unpaired


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME=URL")
    parser.add_argument("--against", type=Path, metavar="DIR", help="another checkout of cartpole")
    arguments = parser.parse_args()
    missing = [name for name in ("wrk", "taskset", "nginx") if not shutil.which(name)]
    if missing or len(os.sched_getaffinity(0)) < 2:
        lacks = ", ".join(missing) or "a second core, for wrk"
        print(f"compare: this machine lacks {lacks}", file=sys.stderr)
        return 1
    contenders = [c for c in CONTENDERS if not arguments.only or c.name in arguments.only]
    for extra in arguments.extra:
        name, _, url = extra.partition("=")
        contenders.append(Contender(name, url=url.rstrip("/")))
    other: Path | None = arguments.against and arguments.against.resolve()
    pairs: dict[str, str] = {}
    unpaired: list[str] = []
    if other:
        contenders, pairs, unpaired = with_checkout(contenders, other)
    results = compare(contenders, arguments.rounds, arguments.seconds)
    how = f"{arguments.rounds} rounds of {arguments.seconds} s. {describe()}"
    text = f"{table(results)}\n\n"
    if other:
        text += f"{ratios(results, pairs, other.name)}\n\n"
    if other and unpaired:
        text += f"Not compared, because {other.name} lacks their flags: {', '.join(unpaired)}.\n\n"
    text += f"{how}\n"
    print(f"\n{text}\nkept: {keep(results, text)}.md, .json and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
