"""The benchmarks of traffic and polling: what they measure, their tables and pictures."""

import subprocess
import sys
from math import nan
from pathlib import Path

import pytest

from bench import pictures, polling, tables, traffic
from bench.contenders import CONTENDERS, Contender
from bench.wrk import Figures
from tests.support.paths import ROOT

SHOWS = {kind: patterns[0].shows for kind, patterns in traffic.KINDS.items()}


def results_of(*servers: str, factor: float = 1) -> tables.Results:
    """Three rounds of each server with every pattern, whose medians are 1,000, 20.5, 3.25 and 4."""
    rounds = [Figures(1000.0 * factor, p50 * factor, 3.25, 4.0) for p50 in (10.0, 30.0, 20.5)]
    return {
        kind: {pattern.name: dict.fromkeys(servers, rounds) for pattern in patterns}
        for kind, patterns in traffic.KINDS.items()
    }


def test_a_table_for_each_kind_of_traffic() -> None:
    results = results_of("ours")
    for by_server in results[traffic.FIXED_RATE].values():
        by_server["slow"] = [Figures(1.0, nan, nan, nan)]
    results[traffic.KEPT]["64"]["by POST"] = [Figures(2.0, 3.0, 4.0, 5.0)]
    shown = tables.tables(results, SHOWS)
    assert "**One connection at a fixed rate** (p50 µs / p99 µs / CPU µs)" in shown
    assert f"| ours |{' 20.5 / 3.2 / 4.0 |' * 4}" in shown
    assert f"| ours |{' 20.5 / 4.0 / 1,000 |' * 4}" in shown
    assert f"| slow |{' too slow / too slow / too slow |' * 4}" in shown
    assert "| by POST |  |  |  | 3.0 / 5.0 / 2.0 |" in shown
    assert shown.count("| ours |") == len(traffic.KINDS)


def test_ratios_to_another_checkout() -> None:
    results = results_of("now", factor=2)
    for kind, patterns in results_of("then").items():
        for pattern, by_server in patterns.items():
            results[kind][pattern] |= by_server
    shown = tables.ratios(results, SHOWS, {"now": "then"})
    assert f"| now / then |{' 2.000 / 1.000 / 2.000 |' * 4}" in shown
    assert shown.count("| now / then |") == len(traffic.KINDS)


def test_pictures(tmp_path: Path) -> None:
    results = results_of("cartpole", "fixed answer")
    pictures.bars(results[traffic.KEPT], tmp_path / "bars.svg")
    pictures.curves(results, tmp_path / "curves.svg")
    for name in ("bars.svg", "curves.svg"):
        assert (tmp_path / name).stat().st_size > 5000


def test_each_pattern_is_run_with_those_that_can_answer_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Patterns with headers, rates or connections of their own need GET."""
    (floor,) = (one for one in CONTENDERS if one.name == "fixed answer")
    by_post = Contender("by POST", floor.command, post=True)
    ran: list[tuple[str, str]] = []

    def run(
        pattern: traffic.Pattern, contender: Contender, url: str, pid: int, seconds: int
    ) -> Figures:
        assert pid and url.startswith("http://127.0.0.1:") and seconds == 7
        ran.append((contender.name, pattern.name))
        return Figures(1.0, 1.0, 1.0, 1.0)

    monkeypatch.setattr(traffic, "run", run)
    monkeypatch.setattr(traffic, "measure", lambda *arguments: None)
    results = traffic.rounds([floor, by_post], traffic.KINDS, 2, 7)
    everything = [pattern.name for patterns in traffic.KINDS.values() for pattern in patterns]
    assert [name for server, name in ran if server == "fixed answer"] == 2 * everything
    assert [name for server, name in ran if server == "by POST"] == 2 * ["1", "2", "8", "64"]
    assert [len(each) for each in results[traffic.KEPT]["2"].values()] == [2, 2]


def test_says_what_the_machine_lacks() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.traffic"],
        cwd=ROOT,
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        1,
        "traffic: this machine lacks wrk, h2load, taskset, nginx\n",
    )


def test_ratios_of_polling_to_never() -> None:
    auto = [Figures(1500.0, 50.0, 0.0, 8.0), Figures(1.0, 1.0, 0.0, 1.0), Figures(9e9, 99, 0, 99)]
    never = [Figures(1000.0, 100.0, 0.0, 10.0)]
    shown = polling.table({("a core each", "1 connection"): {"auto": auto, "never": never}})
    assert shown.splitlines()[-1] == "| a core each | 1 connection | 1.50 | 0.50 | 0.80 |"
