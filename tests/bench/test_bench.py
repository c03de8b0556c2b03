"""Tests of bench/."""

import gc
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyperf
import pytest

from bench import micro
from bench.server import Server, free_port, serving
from cartpole.api.observation import parse
from tests.support.paths import ROOT

# Speaks vegeta 12's command line, as its own help gives it, and sends as many requests as vegeta
# would, though not at its rate. Its report counts the answers.
VEGETA = """#!{python}
import http.client, json, sys
from collections import Counter
from itertools import cycle, islice
from urllib.parse import urlsplit

command, *flags = sys.argv[1:]
known = dict(
    attack=("name", "rate", "duration", "output"),
    report=("type", "output"),
    plot=("title", "output"),
)[command]
options = dict(flag[1:].split("=", 1) for flag in flags if flag.startswith("-"))
assert options.keys() <= set(known), options
files = [flag for flag in flags if not flag.startswith("-")]
if command == "attack":
    targets = [line.strip().split(" ", 1) for line in sys.stdin.read().split("\\n\\n")]
    codes = Counter()
    connection = http.client.HTTPConnection(urlsplit(targets[0][1]).netloc, timeout=9)
    number = int(options["rate"]) * int(options["duration"].removesuffix("s"))
    for method, url in islice(cycle(targets), number):
        connection.request(method, url[url.index("/", 8):])
        response = connection.getresponse()
        response.read()
        codes[response.status] += 1
    open(options["output"], "w").write(json.dumps(codes))
else:
    codes = json.load(open(files[0]))
    counts = "  ".join(f"{{code}}:{{count}}" for code, count in sorted(codes.items()))
    text = f"Status Codes  [code:count]  {{counts}}\\n"
    if options.get("type") == "json":
        success = codes.get("200", 0) / sum(codes.values())
        text = '{{"rate":50.1,"success":%g,"errors":[]}}' % success
    if "output" in options:
        open(options["output"], "w").write(text)
    else:
        print(text)
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def bench(tmp_path: Path, url: str, **environment: str) -> subprocess.CompletedProcess[str]:
    vegeta = tmp_path / "vegeta"
    vegeta.write_text(VEGETA.format(python=sys.executable))
    vegeta.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "URL": url, "PYTHON": sys.executable}
    variables |= {"RESULTS": str(tmp_path / "results"), **environment}
    return subprocess.run(
        [str(ROOT / "bench/bench.sh")],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_load_script_against_a_running_service(tmp_path: Path, server: Server) -> None:
    done = bench(tmp_path, f"http://127.0.0.1:{server.port}/", RATE="50", DURATION="2s")
    assert (done.returncode, done.stderr) == (0, "")
    assert "[code:count]  200:100\n" in done.stdout
    kept = sorted(path.suffix for path in (tmp_path / "results").iterdir())
    assert kept == [".bin", ".html", ".json"]
    assert server.process.poll() is None


def test_load_script_starts_and_stops_a_service_of_its_own(tmp_path: Path) -> None:
    port = free_port()
    done = bench(tmp_path, f"http://127.0.0.1:{port}")
    assert done.returncode == 0, done.stderr
    assert "[code:count]  200:6000\n" in done.stdout  # 200 a second for 30 s
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port))


def test_load_script_fails_when_requests_fail(tmp_path: Path, server: Server) -> None:
    script = (ROOT / "bench/bench.sh").read_text()
    folder = tmp_path / "bench"
    folder.mkdir()
    (folder / "bench.sh").write_text(script)
    (folder / "targets.txt").write_text("GET http://127.0.0.1:3000/inference?position=x\n")
    vegeta = tmp_path / "vegeta"
    vegeta.write_text(VEGETA.format(python=sys.executable))
    vegeta.chmod(0o755)
    url = f"http://127.0.0.1:{server.port}"
    done = subprocess.run(
        ["bash", str(folder / "bench.sh")],
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "URL": url},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (1, "bench: requests failed\n")


def test_load_script_without_vegeta_and_without_a_service(tmp_path: Path) -> None:
    bare = subprocess.run(
        ["/bin/bash", str(ROOT / "bench/bench.sh")],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
    )
    assert bare.returncode == 127
    assert re.fullmatch("bench: vegeta is not installed: .*\n", bare.stderr)
    done = bench(tmp_path, "http://127.0.0.2:1")
    assert (done.returncode, done.stderr) == (1, "bench: nothing is ready at http://127.0.0.2:1\n")


def test_targets_cover_the_observation_space() -> None:
    lines = (ROOT / "bench/targets.txt").read_text().split("\n\n")
    queries = [line.strip().partition("GET http://127.0.0.1:3000/inference?")[2] for line in lines]
    observations = [parse(query.encode()) for query in queries]
    assert len(set(observations)) >= 6
    for values in zip(*observations, strict=True):
        assert min(values) < 0 < max(values)
    assert max(max(map(abs, observation)) for observation in observations) > 1e38


def run_benchmark(tmp_path: Path, name: str, *flags: str) -> str:
    quick = ["--processes", "1", "--values", "1", "--warmups", "0", "--loops", "2", "--quiet"]
    command = [sys.executable, "-m", "bench.record", name, *quick, *flags]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=120,
        env=os.environ | {"CARTPOLE_BENCH_RESULTS": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_micro_benchmark_is_kept_and_compared(tmp_path: Path) -> None:
    assert "Change against" not in run_benchmark(tmp_path, "micro", "--only", "parse")
    assert "Change against micro-" in run_benchmark(tmp_path, "micro", "--only", "parse")
    results = sorted(tmp_path.glob("micro-*.json"))
    assert len(results) == 2
    for result in results:
        assert pyperf.BenchmarkSuite.load(str(result)).get_benchmark_names() == ["parse"]


@pytest.mark.parametrize("name", micro.CASES)
def test_micro_benchmarks_check_what_they_measure(name: str) -> None:
    # Enough requests in a row for the fast path to poll.
    assert micro.timed(micro.CASES[name])(100) > 0
    gc.unfreeze()


def test_end_to_end_benchmark(tmp_path: Path) -> None:
    run_benchmark(tmp_path, "end_to_end")
    (result,) = tmp_path.glob("end_to_end-*.json")
    assert pyperf.BenchmarkSuite.load(str(result)).get_benchmark_names() == [
        "GET /inference, torchscript",
        "GET /inference, native",
    ]
