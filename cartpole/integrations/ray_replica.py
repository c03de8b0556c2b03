"""The actor of a replica: it starts `python -m cartpole.serve` on its node and sends it signals."""

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import ray

from cartpole.integrations.endpoints import join
from cartpole.process.sockets import claim_address


class Replica:
    """A child process that serves, and this process as its parent.

    All methods run in the process's main thread, as those of a Ray actor without concurrency do:
    the kernel ends the child with the thread that has forked it.
    """

    def __init__(self) -> None:
        self._host = ray.util.get_node_ip_address()
        self._model = Path()
        self._child: subprocess.Popen[bytes] | None = None
        self._claim: socket.socket | None = None

    def start(self, port: int, policy: bytes, flags: Sequence[str]) -> tuple[str, int, str]:
        """Start the child on the first free port from this one up.

        Args:
            policy: the content of the model file.
            flags: of cartpole.serve.

        Returns:
            Host, port and the hexadecimal id of the node. The child is not ready yet.

        Raises:
            OSError: no port is free, or the model file can't be written.
        """
        port, self._claim = claim_port(self._host, port)
        folder = make_folder(f"cartpole-{os.getuid()}-{self._host}-{port}")
        self._model = folder / "model_traced.pt"
        self._write(policy)
        where = ["--host", self._host, "--port", str(port), "--model", str(self._model)]
        program = [sys.executable, "-m", "cartpole.integrations.child", str(os.getpid())]
        self._child = subprocess.Popen([*program, *flags, *where])
        return self._host, port, ray.get_runtime_context().get_node_id()

    def exit_code(self) -> int | None:
        """The child's exit code; None while it runs."""
        return self._child.poll() if self._child else None

    def use(self, policy: bytes) -> None:
        """Replace the model file and have the child read it. It goes on serving meanwhile."""
        self._write(policy)
        if self._child:
            self._child.send_signal(signal.SIGHUP)

    def stop(self, seconds: float) -> None:
        """Have the child drain and end; kill it after so many seconds."""
        if not self._child:
            return
        self._child.terminate()
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        shutil.rmtree(self._model.parent, ignore_errors=True)

    def _write(self, policy: bytes) -> None:
        new = self._model.with_name("new")
        new.write_bytes(policy)
        new.replace(self._model)


def make_folder(name: str) -> Path:
    """A folder for temporary files that no other user can write to.

    Its name is that of the replica, so that a replica takes over what a killed one has left.

    Raises:
        OSError: there is one, and it is another user's.
    """
    folder = Path(tempfile.gettempdir(), name)
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        raise OSError(errno.EPERM, f"{folder} belongs to another user")
    return folder


def claim_port(host: str, port: int) -> tuple[int, socket.socket]:
    """The first free TCP port from this one up, and the claim that keeps it from other actors.

    The child binds the port only later.

    Raises:
        OSError: no port is free.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(port, 2**16):
        try:
            with socket.socket(family) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind((host, candidate))
            # Not host:port itself, which the child claims.
            return candidate, claim_address(f"replica {join(host, candidate)}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    raise OSError(errno.EADDRINUSE, f"no port of {host} from {port} up is free")
