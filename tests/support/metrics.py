"""Reading /metrics."""

from prometheus_client.parser import text_string_to_metric_families

from bench.server import Server

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def read(text: bytes) -> Samples:
    """Parse Prometheus text: each sample's value by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def scrape(server: Server) -> Samples:
    status, body = server.get("/metrics")
    assert status == 200
    return read(body)


def requests(samples: Samples, route: str = "/inference", status: int = 200) -> float:
    return samples["cartpole_requests_total", (("route", route), ("status", str(status)))]
