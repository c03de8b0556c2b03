"""Contenders and wrk; the stages; the machine."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bench import contenders, machine, staged, stages, wrk
from bench.server import serving
from tests.support.corpus import USUAL
from tests.support.paths import ROOT
from tests.support.waiting import wait_until

WRK = """Running 2s test @ http://127.0.0.1:1/
  1 threads and 64 connections
  Latency Distribution
     50%  814.00us
     75%    1.04ms
     90%    1.39ms
     99%    2.50s
  122000 requests in 2.00s, 20.0MB read
Requests/sec:  61000.50
Transfer/sec:     10.00MB
"""


def test_reads_what_wrk_prints() -> None:
    assert wrk.read_wrk(WRK, 2.44) == wrk.Figures(61000.5, 814.0, 2.5e6, 20.0)


def test_another_checkout_is_measured_beside_ours() -> None:
    both, pairs, unpaired = contenders.with_checkout(contenders.CONTENDERS, ROOT)
    assert unpaired == []
    ours = [one for one in contenders.CONTENDERS if one.name.startswith("cartpole")]
    assert len(both) == len(contenders.CONTENDERS) + len(ours)
    assert pairs == {one.name: f"{one.name}, {ROOT.name}" for one in ours}
    other = both[1]
    assert other.command == ("env", "-C", str(ROOT), *contenders.SERVE)


def test_modes_that_another_checkout_lacks_are_not_paired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "flags_of", lambda checkout: {"--port", "--engine"})
    both, pairs, unpaired = contenders.with_checkout(contenders.CONTENDERS, ROOT)
    assert list(pairs) == ["cartpole", "cartpole --engine native"]
    assert "cartpole --http asgi" in unpaired
    assert len(both) == len(contenders.CONTENDERS) + len(pairs)


def test_stages_table_and_picture(tmp_path: Path) -> None:
    results = {
        "1 connection": dict(
            zip((*stages.STAGES, stages.WAIT), (1.0, 2.0, 3.0, 4.0, 10.0, 5.0), strict=True)
        )
    }
    assert "| forward | 2.0 (10%) |" in stages.table(results)
    assert stages.table(results).endswith("(wall time, beside the sum) | 5.0 |")
    stages.picture(results, tmp_path / "x.svg")
    assert (tmp_path / "x.svg").stat().st_size > 5000


def test_the_machine_is_described() -> None:
    described = machine.describe()
    assert re.search(r"Python 3\.\d+\.\d+ \(\w+ [\d.]+, \d+ ns to store an", described)
    assert "torch 2.13.0" in described


def test_the_speed_of_python_is_measured_and_its_build_is_not_guessed() -> None:
    """sysconfig can't tell: Debian's doesn't mention its profile-guided optimization."""
    assert "optimiz" not in machine.describe()
    assert 5 < machine.str_nanoseconds() < 5000


def test_resident_memory() -> None:
    before = machine.resident_mebibytes(os.getpid())
    block = b"x" * (64 << 20)
    assert 60 < machine.resident_mebibytes(os.getpid()) - before < 70
    del block


def test_processor_time_of_a_process_and_its_children() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    busy = (
        "import sys, threading\nthreading.Thread(target=sys.stdin.read).start()\n"
        "while threading.active_count() > 1: pass"
    )
    process = subprocess.Popen([sys.executable, "-c", program, busy], stdin=subprocess.PIPE)
    wait_until(lambda: machine.cpu_seconds(process.pid) > 0.3)
    process.communicate()
    assert machine.cpu_seconds(process.pid) == 0


@pytest.mark.parametrize("name", ["fixed answer", "cartpole --http asgi"])
def test_contenders_answer_right(name: str) -> None:
    (contender,) = (c for c in contenders.CONTENDERS if c.name == name)
    with contenders.running(contender) as (url, pid):
        contenders.check(contender, url)
        assert pid
        extra = contenders.Contender("extra", url=url)
        with contenders.running(extra) as (same, none):
            contenders.check(extra, same)
            assert (same, none) == (url, 0)


def test_a_wrong_answer_is_no_contender(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contenders, "EXPECTED", (1.0, 2.0))
    (contender,) = (c for c in contenders.CONTENDERS if c.name == contenders.FLOOR)
    with (
        contenders.running(contender) as (url, _),
        pytest.raises(RuntimeError, match="fixed answer answers"),
    ):
        contenders.check(contender, url)


def test_the_staged_server_shows_why_it_does_not_start(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.staged", str(tmp_path / "s.json"), "--no-such-flag"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "--no-such-flag" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "s.json").exists()


def test_a_stage_does_not_count_the_stages_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0, 10, 40, 50, 70, 100])  # outer begins; two inner ones; outer ends
    monkeypatch.setattr(staged, "clock", lambda: next(times))
    monkeypatch.setattr(staged, "spent", {})
    inner = staged.timed("inner", lambda: None)
    staged.timed("outer", lambda: (inner(), inner()))()
    assert staged.spent == {"inner": 50, "outer": 50}


def test_the_staged_server_writes_its_stages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "bench.staged", str(tmp_path / "s.json"), "--port", "{port}"]
    with serving(command=command) as server:
        assert server.get(f"/inference?{contenders.QUERY}")[0] == 200
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            client.sendall(USUAL * 10)
            client.recv(100)
    measured = json.loads((tmp_path / "s.json").read_text())
    assert measured.keys() == {*stages.STAGES[:-1], stages.WAIT}
    assert all(value > 0 for value in measured.values())
