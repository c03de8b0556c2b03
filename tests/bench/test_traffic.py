"""The tables of the benchmarks of traffic and polling."""

from math import nan

from bench import polling, traffic
from bench.wrk import Figures


def test_a_table_for_each_kind_of_traffic() -> None:
    results: traffic.Results = {}
    for title, patterns in traffic.PATTERNS.items():
        for pattern in patterns:
            of_ours = [Figures(1000.0, p50, 3.25, 4.0) for p50 in (10.0, 30.0, 20.5)]
            slow = [Figures(1.0, nan, nan, nan)]
            results[f"{title}: {pattern.name}"] = {"ours": of_ours, "slow": slow}
    shown = traffic.tables(results)
    assert "**One connection at a fixed rate** (p50 µs / p99 µs / CPU µs)" in shown
    assert f"| ours |{' 20.5 / 3.2 / 4.0 |' * 4}" in shown  # medians
    assert f"| ours |{' 20.5 / 4.0 / 1,000 |' * 4}" in shown
    assert f"| slow |{' too slow / too slow / too slow |' * 4}" in shown
    assert shown.count("| ours |") == len(traffic.PATTERNS)


def test_ratios_of_polling_to_never() -> None:
    auto = [Figures(1500.0, 50.0, 0.0, 8.0), Figures(1.0, 1.0, 0.0, 1.0), Figures(9e9, 99, 0, 99)]
    never = [Figures(1000.0, 100.0, 0.0, 10.0)]
    shown = polling.table({("a core each", "1 connection"): {"auto": auto, "never": never}})
    assert shown.splitlines()[-1] == "| a core each | 1 connection | 1.50 | 0.50 | 0.80 |"
