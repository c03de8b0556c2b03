"""`make bench-compare`: this service and others, one after the other in interleaved rounds of wrk.

The server has core 0 to itself, wrk core 1. Figures are medians over the rounds.
"""

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from bench.machine import cpu_seconds, describe
from bench.record import RESULTS
from bench.server import serving
from cartpole.settings import BUNDLED_MODEL

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parent / ".peers"
QUERY = "position=0&velocity=0&angle=-1&angular_velocity=0"
EXPECTED = (16.007734, -15.989034)
SERVER_CPU, CLIENT_CPU = 0, 1
CONNECTIONS = (1, 64)
FLOOR = "fixed answer"

SERVE = (sys.executable, "-m", "cartpole.serve", "--port", "{port}")
NATIVE = (*SERVE, "--engine", "native")
UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--port", "{port}")
NGINX = """daemon off; master_process off; worker_processes 1; pid {folder}/pid;
error_log /dev/null; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};
proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
scgi_temp_path {folder}; server {{ listen 127.0.0.1:{port}; default_type application/json;
location / {{ return 200 '{{"left":16.007734298706055,"right":-15.989033699035645}}'; }} }} }}
"""


@dataclass(frozen=True)
class Contender:
    """A server to measure.

    Attributes:
        command: what starts it, with `{port}` where the port goes.
        packages: what its own environment needs; without any it runs in ours.
        post: whether it takes JSON by POST instead of GET.
        url: of a server that runs already, which is then not started.
    """

    name: str
    command: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    post: bool = False
    url: str = ""


CONTENDERS = [
    Contender("cartpole", SERVE),
    Contender("cartpole --busy-poll", (*SERVE, "--busy-poll")),
    Contender("cartpole --http asgi", (*SERVE, "--http", "asgi")),
    Contender("cartpole --engine native", NATIVE),
    Contender("cartpole --engine native --busy-poll", (*NATIVE, "--busy-poll")),
    Contender(FLOOR, (sys.executable, str(PEERS / "fixed.py"), "{port}")),
    Contender("nginx, fixed answer", ("nginx", "-c", "{nginx}")),
    Contender("raw ASGI on uvicorn", (sys.executable, *UVICORN, "raw_asgi:app")),
    Contender(
        "FastAPI", ("{python}", *UVICORN, "fastapi_app:app"), ("fastapi", "uvicorn[standard]")
    ),
    Contender(
        "LitServe", ("{python}", str(PEERS / "litserve_app.py"), "{port}"), ("litserve",), post=True
    ),
]


@dataclass(frozen=True)
class Figures:
    """What wrk and /proc said of one contender at one number of connections."""

    requests_per_second: float
    p50: float  # microseconds
    p99: float
    cpu: float  # microseconds of processor time per request; 0 for servers that ran already


def environment(contender: Contender) -> str:
    """The interpreter of a contender's environment, which is made if it is not there."""
    if not contender.packages:
        return sys.executable
    folder = ENVIRONMENTS / contender.name.lower()
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        print(f"installing {contender.name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in (("torch==2.13.0",), ("numpy", *contender.packages)):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return str(python)


@contextmanager
def running(contender: Contender) -> Iterator[tuple[str, int]]:
    """URL and process id of a running contender; 0 where it ran already. Stopped in the end."""
    if contender.url:
        yield contender.url, 0
        return
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        places = {"{python}": environment(contender), "{nginx}": str(configuration)}
        command = [places.get(part, part) for part in contender.command]

        def prepare(port: int) -> None:
            configuration.write_text(NGINX.format(folder=folder, port=port))

        variables = {"CARTPOLE_MODEL": str(BUNDLED_MODEL), "PYTHONPATH": str(PEERS)}
        with serving(command=command, cpu=SERVER_CPU, environ=variables, prepare=prepare) as server:
            yield f"http://127.0.0.1:{server.port}", server.process.pid


def check(contender: Contender, url: str) -> None:
    """Raises RuntimeError where the answer is not the policy's."""
    values = {"position": 0.0, "velocity": 0.0, "angle": -1.0, "angular_velocity": 0.0}
    data = json.dumps(values).encode() if contender.post else None
    request = urllib.request.Request(f"{url}/inference?{QUERY}", data)
    request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                answer = json.load(response)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    found = (answer["left"], answer["right"])
    if any(abs(a - b) > 1e-4 for a, b in zip(found, EXPECTED, strict=True)):
        raise RuntimeError(f"{contender.name} answers {answer}")


def measure(contender: Contender, url: str, pid: int, connections: int, seconds: int) -> Figures:
    command = ["taskset", "-c", str(CLIENT_CPU), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    command += ["--latency", f"{url}/inference?{QUERY}"]
    if contender.post:
        command += ["-s", str(PEERS / "post.lua")]
    before = cpu_seconds(pid) if pid else 0.0
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    used = cpu_seconds(pid) - before if pid else 0.0
    if "Non-2xx" in shown or "Socket errors" in shown:
        raise RuntimeError(f"{contender.name}: {shown}")
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


def median(rounds: list[Figures]) -> Figures:
    return Figures(
        *(
            statistics.median(getattr(figures, name) for figures in rounds)
            for name in Figures.__dataclass_fields__
        )
    )


Results = dict[str, dict[int, list[Figures]]]


def table(results: Results) -> str:
    """Markdown: medians, and beside them how many times the fixed answer's."""
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
                measure(contender, url, pid, CONNECTIONS[-1], 1)  # warms up
                for connections in CONNECTIONS:
                    figures = measure(contender, url, pid, connections, seconds)
                    results[contender.name][connections].append(figures)
                    print(
                        f"{number}/{rounds} {contender.name}, {connections}: {figures}", flush=True
                    )
    return results


def keep(results: Results, text: str) -> Path:
    """Write the table, the raw figures and the picture; returns their path without its ending."""
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each measurement")
    parser.add_argument("--only", action="append", metavar="NAME", help="may be repeated")
    parser.add_argument("--extra", action="append", default=[], metavar="NAME=URL")
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
    results = compare(contenders, arguments.rounds, arguments.seconds)
    how = f"{arguments.rounds} rounds of {arguments.seconds} s. {describe()}"
    text = f"{table(results)}\n\n{how}\n"
    print(f"\n{text}\nkept: {keep(results, text)}.md, .json and .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
