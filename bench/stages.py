"""`make bench-stages`: processor time of one request by stage, in the running service.

bench.staged adds the clocks. The rest of the process's time is the event loop's and the kernel's.
"""

import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from bench import wrk
from bench.contenders import SERVER_CPU
from bench.machine import describe
from bench.record import RESULTS
from bench.server import serving

WAIT = "wait for the batch"  # wall time while other requests are read; not one of the stages
STAGES = ("read and parse", "forward", "render", "write", "loop and kernel")
ENGINES = ("torchscript", "native")
CASES = ((1, ()), (1, ("--poll", "always")), (64, ()))  # connections and flags
ROUNDS, SECONDS = 5, 3

Stages = dict[str, float]


def measure(connections: int, flags: Sequence[str]) -> Stages:
    """Microseconds per request: processor time of each stage, and the wait for the batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stages.json"
        command = [sys.executable, "-m", "bench.staged", str(path), "--port", "{port}"]
        with serving(command=[*command, *flags], cpu=SERVER_CPU) as server:
            url, pid = f"http://127.0.0.1:{server.port}", server.process.pid
            whole = wrk.measure(url, [pid], connections, SECONDS).cpu
        seen = json.loads(path.read_text())
    stages: Stages = {name: seen[name] for name in STAGES[:-1]}
    stages[STAGES[-1]] = whole - sum(stages.values())
    return stages | {WAIT: seen[WAIT]}


def total(stages: Stages) -> float:
    return sum(stages[name] for name in STAGES)


def table(results: dict[str, Stages]) -> str:
    lines = ["| µs per request | " + " | ".join(results) + " |", "|---" * (len(results) + 1) + "|"]
    for name in STAGES:
        cells = [f"{s[name]:.1f} ({s[name] / total(s):.0%})" for s in results.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append("| sum | " + " | ".join(f"{total(s):.1f}" for s in results.values()) + " |")
    waits = " | ".join(f"{s[WAIT]:.1f}" for s in results.values())
    lines.append(f"| {WAIT} (wall time, beside the sum) | {waits} |")
    return "\n".join(lines)


def picture(results: dict[str, Stages], path: Path) -> None:
    """Draw one stacked bar per case: the share of each stage."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(11, 0.6 * len(results) + 1.3))
    names = list(results)[::-1]
    left = [0.0] * len(names)
    colors = ("#0b3d91", "#1f6feb", "#79b8ff", "#c8e1ff", "#d0d7de")
    for stage, color in zip(STAGES, colors, strict=True):
        values = [results[name][stage] / total(results[name]) * 100 for name in names]
        bars = axis.barh(names, values, left=left, color=color, label=stage)
        labels = [f"{value:.0f} %" if value > 4 else "" for value in values]
        dark = color in colors[:2]
        axis.bar_label(
            bars, labels, label_type="center", fontsize=9, color="white" if dark else "black"
        )
        left = [a + b for a, b in zip(left, values, strict=True)]
    axis.set_xlabel("share of a request's processor time, %")
    axis.legend(ncols=len(STAGES), loc="lower center", bbox_to_anchor=(0.45, 1.0), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    rounds: dict[str, list[Stages]] = {}
    for number in range(1, ROUNDS + 1):
        for connections, flags in CASES:
            for engine in ENGINES:
                name = f"{engine}, {connections} connection{'s' * (connections > 1)}"
                name += ", always polling" if flags else ""
                stages = measure(connections, ("--engine", engine, *flags))
                rounds.setdefault(name, []).append(stages)
                print(f"{number}/{ROUNDS} {name}: {stages}", flush=True)
    results = {
        name: {stage: statistics.median(one[stage] for one in all_) for stage in (*STAGES, WAIT)}
        for name, all_ in rounds.items()
    }
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"stages-{datetime.now():%Y%m%d-%H%M%S}"
    text = f"{table(results)}\n\nMedians of {ROUNDS} rounds of {SECONDS} s. {describe()}\n"
    stem.with_suffix(".md").write_text(text)
    stem.with_suffix(".json").write_text(json.dumps(results))
    picture(results, stem.with_suffix(".svg"))
    print(f"\n{text}\nkept: {stem}.md, .json and .svg")


if __name__ == "__main__":
    main()
