"""A Ray cluster of two nodes on this machine: 127.0.0.2 is its head, 127.0.0.3 comes and goes."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.server import free_port
from bench.sessions import end_session, processes, signal_session

HEAD, OTHER = "127.0.0.2", "127.0.0.3"
START_SECONDS = 150
CPUS = 4  # of each node, as Ray counts them
RAY = str(Path(sys.executable).with_name("ray"))
# Those that docs/scaling.md names.
HEALTH = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
# Ray gives the agents of a node 15 s to find a port by themselves, too little on a busy machine.
AGENT_PORTS = (
    "--metrics-export-port",
    "--dashboard-agent-listen-port",
    "--dashboard-agent-grpc-port",
    "--runtime-env-agent-port",
)
WORKER_PORTS = ("--min-worker-port", "0", "--max-worker-port", "0")  # any that are free
SERVICE = "cartpole.serve"


class Node:
    """A Ray node: its processes are a session, which tests kill or halt."""

    def __init__(self, host: str, folder: Path, *flags: str) -> None:
        ports = [word for flag in AGENT_PORTS for word in (flag, str(free_port()))]
        command = [RAY, "start", "--block", "--node-ip-address", host, "--num-cpus", str(CPUS)]
        command += ["--object-store-memory", "80000000", *WORKER_PORTS, *ports, *flags]
        self.host, self._log = host, folder / f"{host}-{time.monotonic_ns()}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=os.environ
                | HEALTH
                | {"RAY_raylet_start_wait_time_s": str(START_SECONDS), "TMPDIR": str(folder)},
            )

    def wait(self) -> None:
        """Wait until the node has joined the cluster."""
        deadline = time.monotonic() + START_SECONDS
        while "Ray runtime started" not in (log := self._log.read_text()):
            assert self._process.poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)

    @property
    def pid(self) -> int:
        return self._process.pid

    def services(self) -> list[int]:
        """The process ids of the replicas' children on this node."""
        return self._processes(SERVICE)

    def actors(self, name: str) -> list[int]:
        """The process ids of the actors of a class on this node."""
        return self._processes(f"ray::{name}")

    def _processes(self, text: str) -> list[int]:
        everyone = processes(self._process.pid)
        return sorted(set(everyone) - set(processes(self._process.pid, without=text)))

    def kill_ray(self) -> None:
        """Kill all of Ray on this node, and no replica's child: the kernel must do that."""
        signal_session(self._process.pid, signal.SIGKILL, without=SERVICE)

    def halt(self) -> None:
        """Stop every process of the node, as a machine that hangs or has lost its network."""
        signal_session(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        signal_session(self._process.pid, signal.SIGCONT)

    def end(self) -> None:
        end_session(self._process.pid)
        self._process.wait()


class Cluster:
    """Two nodes.

    Attributes:
        address: as --address takes it.
        head: the node that the command connects to.
        other: the node that tests may kill.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._temporary = folder, tempfile.TemporaryDirectory(prefix="ray-")
        port = free_port()
        self.address = f"{HEAD}:{port}"
        flags = ["--head", "--port", str(port), "--ray-client-server-port", str(free_port())]
        flags += ["--include-dashboard", "false", "--disable-usage-stats"]
        self.head = Node(HEAD, folder, *flags, "--temp-dir", self._temporary.name)
        self.other = self.head
        try:
            self.head.wait()
            self.restart_other()
        except BaseException:
            self.end()
            raise

    def restart_other(self) -> None:
        """End the other node, if it is there, and start it anew."""
        if self.other is not self.head:
            self.other.end()
        self.other = Node(OTHER, self._folder, "--address", self.address)
        self.other.wait()

    def pids(self) -> list[int]:
        """The first process of each node."""
        return [self.head.pid, self.other.pid]

    def end(self) -> None:
        self.other.end()
        self.head.end()
        self._temporary.cleanup()
