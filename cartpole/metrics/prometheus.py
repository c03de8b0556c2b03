"""GET /metrics: the Prometheus text format, summed over all workers that ever were."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, core, generate_latest
from prometheus_client.utils import floatToGoString

from cartpole.metrics.counters import (
    BATCH_SIZES,
    COLUMNS,
    FORWARD,
    MICROSECONDS,
    REQUEST,
    SIZE,
    Board,
)


@dataclass(frozen=True)
class PolicyInfo:
    """Which policy and engine answer."""

    algorithm: str
    sha256: str
    engine: str


def exposition(board: Board, policy: PolicyInfo) -> bytes:
    """GET /metrics: the Prometheus text format."""
    registry = CollectorRegistry()
    registry.register(_Collector(board, policy))
    return generate_latest(registry)


class _Collector:
    def __init__(self, board: Board, policy: PolicyInfo) -> None:
        self._board, self._policy = board, policy

    def collect(self) -> Iterator[Any]:
        board = self._board
        requests = core.CounterMetricFamily(
            "cartpole_requests", "Requests answered.", labels=("route", "status")
        )
        for route, columns in COLUMNS.requests.items():
            for status, column in columns.items():
                requests.add_metric((route, str(status)), board.total(column))
        yield requests
        refusals = core.CounterMetricFamily(
            "cartpole_refusals", "Refused before any route.", labels=("reason",)
        )
        for status, column in COLUMNS.refusals.items():
            refusals.add_metric((_REASONS[status],), board.total(column))
        yield refusals
        yield self._durations("request", _REQUEST_HELP, REQUEST)
        yield self._durations("inference", "One forward.", FORWARD)
        yield self._histogram(
            "cartpole_batch_size", "Observations of one forward.", SIZE, BATCH_SIZES, 1
        )
        for name, text, column in (
            ("connections_open", "Open connections.", COLUMNS.connections),
            ("workers", "Workers that serve and are not being replaced.", COLUMNS.ready),
        ):
            yield core.GaugeMetricFamily(f"cartpole_{name}", text, board.total(column))
        for name, text, column in (
            ("connections_accepted", "Connections accepted.", COLUMNS.accepted),
            ("worker_restarts", "Workers that ended or hung and were replaced.", COLUMNS.restarts),
        ):
            yield core.CounterMetricFamily(f"cartpole_{name}", text, board.total(column))
        yield core.InfoMetricFamily(
            "cartpole_policy", "The policy that is served.", vars(self._policy)
        )
        yield from self._processes()

    def _durations(self, name: str, text: str, column: int) -> Any:
        limits = [limit / 1e6 for limit in MICROSECONDS]
        return self._histogram(f"cartpole_{name}_seconds", text, column, limits, 1e-9)

    def _histogram(
        self, name: str, text: str, column: int, limits: Sequence[float], unit: float
    ) -> Any:
        count, buckets = 0, []
        for number, limit in enumerate((*map(float, limits), float("inf"))):
            count += self._board.total(column + number)
            label: str = floatToGoString(limit)  # type: ignore[no-untyped-call]
            buckets.append((label, count))
        total = self._board.total(column + len(limits) + 1) * unit
        return core.HistogramMetricFamily(name, text, buckets, total)

    def _processes(self) -> Iterator[Any]:
        """Memory, processor time, descriptors of each process, by its id."""
        families: dict[str, core.Metric] = {}
        for row in self._board.rows:
            pid = row[COLUMNS.pid]
            if not pid:
                continue
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                kept = families.setdefault(
                    family.name, core.Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    kept.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from families.values()


_REQUEST_HELP = "From when a request's head was read (of a batch: its first) to its answer."
_REASONS = {
    400: "not valid HTTP",
    408: "head too slow",
    413: "body too large",
    417: "expectation",
    431: "head too large",
    501: "not implemented",
    503: "too many connections",
    505: "not HTTP/1",
}
