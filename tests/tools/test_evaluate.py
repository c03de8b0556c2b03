"""Tests of tools/evaluate.py, which runs against the real service."""

import asyncio
import gc
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import nn

from bench.machine import descendants
from bench.server import Server, serving
from tests.support.models import save
from tests.support.paths import ROOT
from tests.support.waiting import wait_until
from tools.evaluate import main, percentile


@pytest.fixture(scope="module")
def clumsy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A policy that pushes to where the pole leans: it falls, each episode after its own time."""
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[0.0, 0, -1, 0], [0, 0, 1, 0]]))
        linear.bias.zero_()
    return save(tmp_path_factory.mktemp("clumsy") / "model.pt", linear)


@pytest.fixture(scope="module")
def server(clumsy: Path) -> Iterator[Server]:
    with serving("--model", str(clumsy)) as running:
        yield running


def run(server: Server, path: Path, *flags: str) -> dict[str, Any]:
    url = f"http://127.0.0.1:{server.port}/"
    assert main(["--url", url, "--at-least", "0", "--json", str(path), *flags]) == 0
    figures: dict[str, Any] = json.loads(path.read_text())
    return figures


def test_the_shipped_policy_on_a_service_of_its_own(tmp_path: Path, capsys: Any) -> None:
    assert main(["--episodes", "4", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["returns"] == [500.0] * 4
    assert figures["steps"] == 2000
    shown = capsys.readouterr().out
    assert "episodes             4, seeds 0 to 3, 16 at once\n" in shown
    assert "return               500.0 ± 0.0, least 500\n" in shown
    assert descendants(os.getpid()) == []


def test_fields(server: Server, tmp_path: Path) -> None:
    flags = ("--episodes", "5", "--seed", "7", "--concurrency", "2")
    figures = run(server, tmp_path / "figures.json", *flags)
    returns, latency = figures["returns"], figures["latency_ms"]
    assert list(figures) == [
        *("episodes", "seed", "concurrency", "returns", "mean", "std", "min", "steps", "seconds"),
        *("steps_per_second", "latency_ms", "repeats"),
    ]
    assert (figures["episodes"], figures["seed"], figures["concurrency"]) == (5, 7, 2)
    assert (len(returns), figures["steps"], figures["repeats"]) == (5, sum(returns), 0)
    assert figures["mean"] == pytest.approx(statistics.fmean(returns))
    assert figures["std"] == pytest.approx(statistics.pstdev(returns))
    assert figures["min"] == min(returns)
    assert figures["steps_per_second"] == pytest.approx(figures["steps"] / figures["seconds"])
    assert list(latency) == ["p50", "p99", "max"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["max"] < figures["seconds"] * 1000


def test_an_episode_is_that_of_its_seed(server: Server, tmp_path: Path) -> None:
    """Neither the concurrency nor the episodes beside it change it."""
    path = tmp_path / "figures.json"
    together = run(server, path, "--episodes", "9", "--seed", "3")["returns"]
    assert len(set(together)) > 2
    one_by_one = run(server, path, "--episodes", "9", "--seed", "3", "--concurrency", "1")
    assert one_by_one["returns"] == together
    assert run(server, path, "--episodes", "4", "--seed", "8")["returns"] == together[5:]


def test_below_the_threshold(clumsy: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("CARTPOLE_MODEL", str(clumsy))
    assert main(["--episodes", "2"]) == 1
    shown = capsys.readouterr()
    assert shown.err.startswith("evaluate: the mean return ")
    assert shown.err.endswith(" is below --at-least 475\n")
    assert "least" in shown.out


def test_a_service_that_does_not_start(monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("CARTPOLE_MODEL", "missing.pt")
    assert main(["--episodes", "1"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("evaluate: ")
    assert "missing.pt" in line


@pytest.mark.parametrize(
    "flags",
    [
        ("--url", "127.0.0.1:3000"),
        ("--url", "ftp://127.0.0.1"),
        ("--url", "http://127.0.0.1:port"),
        ("--episodes", "0"),
        ("--concurrency", "x"),
        ("--seed", "-1"),
        ("--json", "missing/figures.json"),
        ("--record", "."),
    ],
)
def test_bad_usage(flags: tuple[str, ...], capsys: Any) -> None:
    with pytest.raises(SystemExit) as raised:
        main(list(flags))
    assert raised.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f": error: argument {flags[0]}: {flags[1]!r} " in last


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_service_behind(number: signal.Signals) -> None:
    command = [sys.executable, str(ROOT / "tools/evaluate.py"), "--episodes", "100000"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_until(lambda: descendants(process.pid))
    (service,) = descendants(process.pid)
    wait_until(lambda: listens(service))
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "evaluate: interrupted\n")
    assert not Path(f"/proc/{service}").exists()


@pytest.mark.parametrize("moment", ["before the loop", "in a task", "in a second task"])
def test_interrupted_at_any_moment_it_says_just_that(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: Any, capfd: Any, moment: str
) -> None:
    """SIGTERM raises KeyboardInterrupt where it arrives, unless it is asked to wait."""

    def interrupt() -> None:
        signal.raise_signal(signal.SIGTERM)

    def make(*arguments: Any, **options: Any) -> Any:
        made.append(None)
        if len(made) == {"in a task": 1, "in a second task": 2}.get(moment):
            interrupt()
        return real_make(*arguments, **options)

    def new_event_loop() -> asyncio.AbstractEventLoop:
        if moment == "before the loop":
            interrupt()
        return real_loop()

    made: list[None] = []
    real_make, real_loop = gymnasium.make, asyncio.new_event_loop
    monkeypatch.setattr(gymnasium, "make", make)
    monkeypatch.setattr(asyncio.events, "new_event_loop", new_event_loop)
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        status = main(["--url", f"http://127.0.0.1:{server.port}", "--episodes", "100"])
        gc.collect()  # an unawaited coroutine, or a task whose exception nobody took, says so
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert (status, capfd.readouterr().err) == (130, "evaluate: interrupted\n")
    assert caplog.messages == []


def listens(pid: int) -> bool:
    """Whether the service accepts connections on the port of its command line."""
    arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    if b"--port" not in arguments:
        return False  # not executed yet
    port = int(arguments[arguments.index(b"--port") + 1])
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_percentile() -> None:
    assert [percentile([1, 2, 3, 4], percent) for percent in (50, 99)] == [2, 4]
    assert percentile([5.0], 50) == 5


def test_figures_that_cannot_be_written(server: Server, capsys: Any) -> None:
    url = f"http://127.0.0.1:{server.port}"
    assert main(["--url", url, "--episodes", "1", "--json", "/dev/full"]) == 2
    assert capsys.readouterr().err == "evaluate: [Errno 28] No space left on device\n"
