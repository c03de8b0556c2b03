"""Markdown tables of measurements: medians over the rounds, and ratios of two servers."""

import statistics
from collections.abc import Mapping, Sequence
from math import isnan

from bench.wrk import Figures

UNITS = {"p50": "p50 µs", "p99": "p99 µs", "cpu": "CPU µs", "requests_per_second": "requests/s"}

ByServer = dict[str, list[Figures]]  # the rounds of each server
Results = dict[str, dict[str, ByServer]]  # by kind of traffic, then by pattern


def median(rounds: Sequence[Figures], field: str) -> float:
    values: list[float] = [getattr(figures, field) for figures in rounds]
    return statistics.median(values)


def tables(results: Results, shows: Mapping[str, Sequence[str]]) -> str:
    """A table for each kind of traffic: a row for each server, a column for each pattern.

    Args:
        shows: for each kind, the fields of Figures that a cell has.
    """
    text = ""
    for kind, patterns in results.items():
        servers = dict.fromkeys(server for by_server in patterns.values() for server in by_server)
        rows = {
            server: [
                " / ".join(shown(median(by_server[server], field)) for field in shows[kind])
                if server in by_server
                else ""
                for by_server in patterns.values()
            ]
            for server in servers
        }
        text += _table(kind, shows[kind], patterns, rows)
    return text


def ratios(results: Results, shows: Mapping[str, Sequence[str]], pairs: Mapping[str, str]) -> str:
    """The same for pairs of servers: medians of the first as multiples of the second's."""
    text = ""
    for kind, patterns in results.items():
        rows = {
            f"{one} / {other}": [
                " / ".join(
                    f"{median(by_server[one], field) / median(by_server[other], field):.3f}"
                    for field in shows[kind]
                )
                for by_server in patterns.values()
            ]
            for one, other in pairs.items()
        }
        text += _table(kind, shows[kind], patterns, rows)
    return text


def shown(value: float) -> str:
    if isnan(value):
        return "too slow"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _table(
    kind: str, fields: Sequence[str], heads: Mapping[str, object], rows: Mapping[str, list[str]]
) -> str:
    text = f"**{kind}** ({' / '.join(UNITS[field] for field in fields)})\n\n"
    text += f"| | {' | '.join(heads)} |\n|---|{'---|' * len(heads)}\n"
    for name, cells in rows.items():
        text += f"| {name} | {' | '.join(cells)} |\n"
    return f"{text}\n"
