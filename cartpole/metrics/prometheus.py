"""Renders the counters in the Prometheus text format, summed over past and present workers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, core, generate_latest
from prometheus_client.utils import floatToGoString

from cartpole.metrics.counters import BATCH_SIZES, COLUMNS, MICROSECONDS, SharedCounters
from cartpole.metrics.rejections import REJECTIONS

_REQUEST_HELP = "From when a request's head was read (of a batch: its first) to its answer."


@dataclass(frozen=True)
class PolicyInfo:
    """The labels of the metric cartpole_policy_info."""

    algorithm: str
    sha256: str
    engine: str


def render_metrics(shared: SharedCounters, policy: PolicyInfo) -> bytes:
    """The body of GET /metrics."""
    registry = CollectorRegistry()
    registry.register(_Collector(shared, policy))
    return generate_latest(registry)


class _Collector:
    def __init__(self, shared: SharedCounters, policy: PolicyInfo) -> None:
        self._shared, self._policy = shared, policy

    def collect(self) -> Iterator[Any]:
        yield self._requests()
        yield self._rows()
        yield self._rejections()
        yield self._durations("request", _REQUEST_HELP, COLUMNS.request_seconds)
        yield self._durations("inference", "One forward.", COLUMNS.inference_seconds)
        yield self._histogram(
            "batch_size", "Observations of one forward.", COLUMNS.batch_size, BATCH_SIZES, 1
        )
        gauge, counter = core.GaugeMetricFamily, core.CounterMetricFamily
        for kind, name, text, column in (
            (gauge, "connections_open", "Open connections.", COLUMNS.connections),
            (gauge, "workers", "Workers that serve and are not being replaced.", COLUMNS.ready),
            (counter, "connections_accepted", "Connections accepted.", COLUMNS.accepted),
            (counter, "worker_restarts", "Workers that ended or hung and were replaced.",
             COLUMNS.restarts),
        ):  # fmt: skip
            yield kind(f"cartpole_{name}", text, self._shared.total(column))
        yield core.InfoMetricFamily(
            "cartpole_policy", "The policy that is served.", vars(self._policy)
        )
        yield from self._processes()

    def _requests(self) -> core.Metric:
        requests = core.CounterMetricFamily(
            "cartpole_requests", "Requests answered.", labels=("route", "status")
        )
        for route, columns in COLUMNS.requests.items():
            for status, column in columns.items():
                requests.add_metric((route, str(status)), self._shared.total(column))
        return requests

    def _rows(self) -> core.Metric:
        rows = core.CounterMetricFamily(
            "cartpole_rows", "Observations answered by POST requests.", labels=("route",)
        )
        for route, columns in COLUMNS.batches.items():
            rows.add_metric((route,), self._shared.total(columns.rows))
        return rows

    def _rejections(self) -> core.Metric:
        # The name is part of the interface: dashboards and alerts read it.
        rejections = core.CounterMetricFamily(
            "cartpole_refusals", "Refused before any route.", labels=("reason",)
        )
        for rejection in REJECTIONS:
            count = self._shared.total(COLUMNS.rejections[rejection.reason])
            rejections.add_metric((rejection.reason,), count)
        return rejections

    def _durations(self, name: str, text: str, column: int) -> core.Metric:
        limits = [limit / 1e6 for limit in MICROSECONDS]
        return self._histogram(f"{name}_seconds", text, column, limits, 1e-9)

    def _histogram(
        self, name: str, text: str, column: int, limits: Sequence[float], unit: float
    ) -> core.Metric:
        """A histogram whose cells begin at this column and whose sum counts these units."""
        count, buckets = 0, []
        for number, limit in enumerate((*map(float, limits), float("inf"))):
            count += self._shared.total(column + number)
            label: str = floatToGoString(limit)  # type: ignore[no-untyped-call]
            buckets.append((label, count))
        total = self._shared.total(column + len(limits) + 1) * unit
        return core.HistogramMetricFamily(f"cartpole_{name}", text, buckets, total)

    def _processes(self) -> Iterator[core.Metric]:
        """Memory, processor time and descriptors of each process, labelled with its id."""
        families: dict[str, core.Metric] = {}
        for row in self._shared.rows:
            pid = row[COLUMNS.pid]
            if not pid:
                continue
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                merged = families.setdefault(
                    family.name, core.Metric(family.name, family.documentation, family.type)
                )
                for sample in family.samples:
                    merged.add_sample(sample.name, {"pid": str(pid)}, sample.value)
        yield from families.values()
