"""nginx and HAProxy in front of running instances, with the files of deploy/ but other ports."""

import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.server import Server, free_port, wait_until_ready

DEPLOY = Path(__file__).parents[1] / "deploy"
# The part of nginx's own configuration that deploy/nginx.conf is included in. The master process
# is left out, so that the balancer is the process that was started.
NGINX = """daemon off; master_process off; pid {folder}/pid; error_log stderr crit;
events {{ worker_connections 4096; }}
http {{ access_log off; {folders} include {folder}/cartpole.conf; }}
"""


@dataclass(frozen=True)
class Balancer(Server):
    """A running balancer.

    Attributes:
        admin: HAProxy's runtime socket; None for nginx.
    """

    admin: Path | None = None


@contextmanager
def balancing(program: str, instances: Sequence[int], folder: Path) -> Iterator[Balancer]:
    """`nginx` or `haproxy` in front of two instances, given by their ports on 127.0.0.1.

    Args:
        folder: an empty folder for its configuration and its socket.

    Raises:
        RuntimeError: it exited, or did not listen within a minute.
    """
    port = free_port()
    command = {"nginx": _nginx, "haproxy": _haproxy}[program](port, instances, folder)
    process = subprocess.Popen(command, text=True)
    admin = folder / "admin.sock" if program == "haproxy" else None
    balancer = Balancer(process, port, admin=admin)
    try:
        wait_until_ready(balancer)
        yield balancer
    finally:
        process.terminate()
        process.wait()


def _with_ports(text: str, port: int, instances: Sequence[int]) -> str:
    one, two = instances
    ports = {"127.0.0.1:3000": f"127.0.0.1:{one}", "127.0.0.1:3001": f"127.0.0.1:{two}"}
    ports |= {"listen 8080": f"listen 127.0.0.1:{port}", "bind :8080": f"bind 127.0.0.1:{port}"}
    return re.sub("|".join(ports), lambda found: ports[found[0]], text)


def _nginx(port: int, instances: Sequence[int], folder: Path) -> list[str]:
    site = _with_ports((DEPLOY / "nginx.conf").read_text(), port, instances)
    (folder / "cartpole.conf").write_text(site)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    folders = " ".join(f"{kind}_temp_path {folder};" for kind in kinds)
    (folder / "nginx.conf").write_text(NGINX.format(folder=folder, folders=folders))
    return ["nginx", "-e", "stderr", "-c", str(folder / "nginx.conf")]


def _haproxy(port: int, instances: Sequence[int], folder: Path) -> list[str]:
    text = _with_ports((DEPLOY / "haproxy.cfg").read_text(), port, instances)
    (folder / "haproxy.cfg").write_text(text.replace("/run/haproxy", str(folder)))
    return ["haproxy", "-db", "-q", "-f", str(folder / "haproxy.cfg")]
