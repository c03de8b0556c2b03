"""Descriptors, memory and CPU time of a service."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.server import Server

# Environment of a service whose code other tests measure: coverage doubles its processor time.
UNMEASURED = {"COVERAGE_PROCESS_CONFIG": ""}

SERVE = [sys.executable, "-m", "cartpole.serve", "--port", "{port}"]


def descriptors(server: Server) -> int:
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def resident(server: Server) -> int:
    """Resident memory in KiB."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    (found,) = re.findall(r"VmRSS:\s+(\d+)", status)
    return int(found)


def cpu(server: Server) -> float:
    fields = Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors_of_connections(server: Server) -> int:
    """Established connections of the server that have a descriptor."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{server.port:04X}") and row[3] == "01" and row[9] != "0"
               for row in rows)  # fmt: skip


def log_of(server: Server) -> str:
    """Stop the service and return the rest of its log."""
    server.process.send_signal(signal.SIGTERM)
    _, log = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    return log


def start_error(*flags: str, prefix: Sequence[str] = (), **environment: str) -> tuple[int, str]:
    """Exit code and the only line of a start that fails; a prefix is a command that executes it."""
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "cartpole.serve", *flags],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, done.stderr
    return done.returncode, done.stderr
