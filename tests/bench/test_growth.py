"""The benchmark of growth: its cases answer, and count the processes that they name."""

import subprocess
import sys

import pytest

from bench import growth
from bench.machine import cpu_seconds
from tests.support.needs import needs
from tests.support.paths import ROOT


@pytest.mark.parametrize(
    ("name", "processes"),
    [
        ("cartpole, two workers", 1),
        pytest.param("two instances behind nginx", 3, marks=needs("nginx")),
    ],
)
def test_cases_answer(name: str, processes: int) -> None:
    with growth.CASES[name]() as (url, pids):
        assert growth.answers(url)
        assert len(set(pids)) == processes
        assert cpu_seconds(*pids) > 0
    assert not growth.answers(url)


def test_says_what_the_machine_lacks() -> None:
    command = [sys.executable, "-m", "bench.growth"]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/nowhere"}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("growth: this machine lacks wrk, taskset, nginx, haproxy")
