"""`python -m cartpole.integrations.ray` as a process, and what it tells the world."""

import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from bench.ray_nodes import Cluster
from bench.sessions import end_session
from tests.support.paths import GOLDEN

SECONDS = 120  # the patience of tests
COMMAND = [sys.executable, "-m", "cartpole.integrations.ray"]


def until(condition: Callable[[], object], seconds: float = SECONDS) -> float:
    """Wait for a condition. Returns how long that took, in seconds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)
    return time.monotonic() - started


def ask(endpoint: str, target: str = f"/inference?{GOLDEN}") -> bytes:
    """The body of the answer of one replica."""
    with urllib.request.urlopen(f"http://{endpoint}{target}", timeout=20) as response:
        body: bytes = response.read()
        return body


class Command:
    """The command on a cluster.

    Attributes:
        model: the file that it serves.
        reloads: the file to which its reload command adds a line.
    """

    def __init__(self, cluster: Cluster, folder: Path, model: bytes, replicas: int) -> None:
        self.cluster = cluster
        self.model, self._list, self.nginx = (folder / n for n in ("model.pt", "list", "nginx"))
        self.reloads, self._log = folder / "reloads", folder / "log"
        self.model.write_bytes(model)
        options = ["--model", self.model, "--endpoints", self._list, "--nginx", self.nginx]
        options += ["--reload", f"cat {self._list} | wc -l >> {self.reloads}"]
        options += ["--address", cluster.address, "--replicas", replicas, "--port", 21000]
        flags = ["--", "--drain-seconds", "1", "--shutdown-timeout", "5"]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, *map(str, options), *flags],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def endpoints(self) -> list[str]:
        return self._list.read_text().split() if self._list.exists() else []

    def hosts(self) -> list[str]:
        return sorted(endpoint.partition(":")[0] for endpoint in self.endpoints())

    def wait_for(self, replicas: int) -> float:
        """Wait until so many are listed. Returns how long that took, in seconds."""

        def are_listed() -> bool:
            assert self.process.poll() is None, self.log
            return len(self.endpoints()) == replicas

        return until(are_listed)

    def replace_model(self, content: bytes) -> None:
        new = self.model.with_name("new")
        new.write_bytes(content)
        new.replace(self.model)
        self.process.send_signal(signal.SIGHUP)

    def logged(self, pattern: str) -> bool:
        return re.search(pattern, self.log) is not None

    def scale(self, replicas: int) -> None:
        done = scale(self.cluster.address, replicas)
        assert (done.returncode, done.stderr) == (0, ""), done.stderr

    def end(self) -> None:
        end_session(self.process.pid)
        self.process.wait()


def scale(address: str, replicas: int) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, "--address", address, "--scale", str(replicas)]
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
