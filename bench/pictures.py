"""Pictures of measurements as SVG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.tables import ByServer, median

OURS, OTHERS = "#1f6feb", "#9aa4b2"
SHADES = {  # of lines that must be told apart: blue for ours, grey to brown for others
    True: ("#0b3d91", "#1f6feb", "#6aa5f8", "#00897b", "#4db6ac"),
    False: ("#37414d", "#7b8794", "#b08968", "#c7b198", "#9c6644"),
}


def bars(kept: Mapping[str, ByServer], path: Path) -> None:
    """The three figures that matter of kept connections, with logarithmic axes."""
    one, many = kept["1"], kept["64"]
    panels = [
        ("requests a second, 64 connections", many, "requests_per_second"),
        ("CPU µs a request, 64 connections", many, "cpu"),
        ("p50 µs, 1 connection", one, "p50"),
    ]
    names = list(one)[::-1]
    colors = [OURS if name.startswith("cartpole") else OTHERS for name in names]
    figure, axes = _subplots(3, 0.45 * len(names) + 1.1, sharey=True)
    for axis, (title, by_server, field) in zip(axes, panels, strict=True):
        values = [median(by_server[name], field) for name in names]
        shown = axis.barh(names, values, color=colors)
        axis.bar_label(shown, [f"{value:,.0f}" for value in values], padding=3, fontsize=9)
        axis.set_xscale("log")
        axis.set_xlim(right=max(values) * 4)
        axis.set_title(title, fontsize=10)
        axis.tick_params(axis="y", length=0)
    _save(figure, path)


def curves(kinds: Mapping[str, Mapping[str, ByServer]], path: Path) -> None:
    """Median latencies, a panel for each kind of traffic and a line for each server."""
    from matplotlib import ticker

    figure, axes = _subplots(len(kinds), 4.2)
    for axis, (kind, patterns) in zip(axes, kinds.items(), strict=True):
        servers = list(next(iter(patterns.values())))
        drawn = {True: 0, False: 0}
        for server in servers:
            ours = server.startswith("cartpole")
            color = SHADES[ours][drawn[ours] % len(SHADES[ours])]
            drawn[ours] += 1
            heights = [
                median(by_server[server], "p50")
                for by_server in patterns.values()
                if server in by_server
            ]
            axis.plot(
                list(patterns)[: len(heights)],
                heights,
                "o-" if ours else "s--",
                label=server,
                color=color,
            )
        axis.set_title(f"{kind}: p50, µs", fontsize=10)
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(ticker.ScalarFormatter())
        axis.yaxis.set_minor_formatter(ticker.NullFormatter())
    fullest = max(axes, key=lambda axis: len(axis.lines))
    axes[-1].legend(
        handles=list(fullest.lines),
        fontsize=8,
        frameon=False,
        loc="center left",
        bbox_to_anchor=(1, 0.5),
    )
    _save(figure, path)


def _subplots(number: int, height: float, sharey: bool = False) -> tuple[Any, Any]:
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, number, figsize=(13, height), sharey=sharey, squeeze=False)
    for axis in axes[0]:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes[0]


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
