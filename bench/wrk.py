"""One measurement by wrk: requests a second, latencies, and the server's processor time."""

import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from bench.contenders import QUERY
from bench.machine import cpu_seconds

CLIENT_CPU = 1


@dataclass(frozen=True)
class Figures:
    """Figures of one server at one number of connections."""

    requests_per_second: float
    p50: float  # microseconds
    p99: float
    cpu: float  # microseconds of processor time per request; 0 if the process is not known


def measure(
    url: str,
    pids: Sequence[int],
    connections: int,
    seconds: int,
    options: Sequence[str] = (),
    cpu: int | None = CLIENT_CPU,
) -> Figures:
    """Load a server with wrk.

    Args:
        pids: of the server, whose processor time is measured; none, or 0, if it is not known.
        options: of wrk, such as a script or headers.
        cpu: the core that wrk runs on; None: any core.

    Raises:
        RuntimeError: a request failed.
    """
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    if cpu is not None:
        command = ["taskset", "-c", str(cpu), *command]
    command += ["--latency", f"{url}/inference?{QUERY}"]
    command += options
    before = cpu_seconds(*pids)
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(*pids) - before
    if "Non-2xx" in shown or "Socket errors" in shown:
        raise RuntimeError(shown)
    return read_wrk(shown, used)


def read_wrk(shown: str, cpu: float) -> Figures:
    """The figures in what `wrk --latency` prints, with the server's processor seconds."""
    units = {"us": 1.0, "ms": 1e3, "s": 1e6}
    latency = {}
    for percent, value, unit in re.findall(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s) *$", shown, re.M):
        latency[percent] = float(value) * units[unit]
    (requests,) = re.findall(r"(\d+) requests in", shown)
    (rate,) = re.findall(r"Requests/sec:\s+([\d.]+)", shown)
    return Figures(float(rate), latency["50"], latency["99"], cpu / max(1, int(requests)) * 1e6)
