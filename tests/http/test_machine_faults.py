"""Faults of the machine: no descriptors, a full disk, a clock that jumps, a lost model file."""

import json
import os
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from bench.server import serving
from tests.support.clients import REQUEST, connect, crowd, read_all, read_answer
from tests.support.memory import statuses
from tests.support.paths import GOLDEN
from tests.support.processes import SERVE, cpu, descriptors
from tests.support.waiting import wait_until


def test_descriptors_run_out_and_come_back() -> None:
    limited = ["bash", "-c", "ulimit -n 100; exec " + " ".join(SERVE)]
    with serving(command=limited) as server:
        with ExitStack() as stack:
            crowd(server, 300, stack)
            time.sleep(1)
            before = server.process.pid and cpu(server)
            time.sleep(1)
            assert cpu(server) - before < 0.9  # the service sleeps instead of spinning
        wait_until(lambda: descriptors(server) < 60)
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        server.process.terminate()
        assert server.process.stderr
        assert len(server.process.stderr.read().splitlines()) <= 4


def test_the_model_file_goes_while_it_serves(tmp_path: Path) -> None:
    from cartpole.settings import BUNDLED_MODEL

    model = tmp_path / "model.pt"
    model.write_bytes(BUNDLED_MODEL.read_bytes())
    with serving("--model", str(model)) as server:
        before = server.get(f"/inference?{GOLDEN}")
        model.write_bytes(b"")
        model.unlink()
        assert server.get(f"/inference?{GOLDEN}") == before


def test_a_clock_that_jumps_back_an_hour(tmp_path: Path) -> None:
    """Only the date header follows the wall clock. All time limits use the monotonic clock."""
    jump = tmp_path / "jump"
    program = (
        "import os, time; real = time.time\n"
        f"time.time = lambda: real() - (3600 if os.path.exists({str(jump)!r}) else 0)\n"
        "from cartpole.serve import main; main()"
    )
    command = [sys.executable, "-c", program, "--port", "{port}", "--head-timeout", "1"]
    with serving(command=[*command, "--drain-seconds", "1"]) as server, connect(server) as client:

        def ask() -> datetime:
            client.sendall(REQUEST)
            answer = read_answer(client)
            assert answer.startswith(b"HTTP/1.1 200 OK")
            (date,) = re.findall(rb"date: ([^\r]+)", answer)
            return parsedate_to_datetime(date.decode())

        before = ask()
        with connect(server) as slow:
            slow.sendall(REQUEST[:20])
            jump.touch()
            wait_until(lambda: ask() < before)
            assert statuses(read_all(slow)) == [408]
        server.process.terminate()
        assert server.process.wait(timeout=30) == 0


def test_a_full_disk_for_the_log() -> None:
    with serving(
        command=["bash", "-c", "exec " + " ".join(SERVE) + " --access-log 2>/dev/full"]
    ) as server:
        for _ in range(3):
            assert server.get(f"/inference?{GOLDEN}")[0] == 200


def test_a_metrics_file_that_can_not_be_made() -> None:
    program = "ulimit -f 0; exec " + " ".join(SERVE).replace("{port}", "0") + " --workers 2"
    environ = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}
    done = subprocess.run(
        ["bash", "-c", program], env=environ, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert "metrics" in done.stderr


def test_rejections_share_one_log_line() -> None:
    with serving("--log-format", "json") as server:
        for _ in range(50):
            with connect(server) as client:
                client.sendall(b"nonsense\r\n\r\n")
                assert statuses(read_all(client)) == [400]
        time.sleep(2.5)
        server.process.terminate()
        assert server.process.stderr
        events = [json.loads(line) for line in server.process.stderr.read().splitlines()]
    assert [event["level"] for event in events] == ["info", "warning", "info"]
    assert re.search(r"rejected since the last such line: \d+ of 400", events[1]["message"])
    assert {"time", "level", "logger", "process", "message"} == events[0].keys()
