"""The servers that the comparison measures: how each is started, and whether it answers rightly."""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.server import serving
from cartpole.policy.tolerance import logits_close
from cartpole.settings import BUNDLED_MODEL

PEERS = Path(__file__).parent / "peers"
ENVIRONMENTS = Path(__file__).parent / ".peers"
QUERY = "position=0&velocity=0&angle=-1&angular_velocity=0"
EXPECTED = (16.007734, -15.989034)
SERVER_CPU = 0
FLOOR, SPINNING = "fixed answer", "fixed answer, spinning"

SERVE = (sys.executable, "-m", "cartpole.serve", "--port", "{port}")
NATIVE = (*SERVE, "--engine", "native")
UVICORN = ("-m", "uvicorn", "--no-access-log", "--log-level", "warning", "--port", "{port}")
NGINX = """daemon off; master_process off; worker_processes 1; pid {folder}/pid;
error_log /dev/null; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {folder};
proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder};
scgi_temp_path {folder}; server {{ listen 127.0.0.1:{port}; default_type application/json;
location / {{ return 200 '{{"left":16.007734298706055,"right":-15.989033699035645}}'; }} }} }}
"""


@dataclass(frozen=True)
class Contender:
    """A server to measure.

    Attributes:
        command: starts it, with `{port}` where the port goes.
        packages: requirements of an environment of its own; without any it runs in ours.
        post: it takes JSON by POST instead of GET.
        url: of a server that is running already, and is not started.
    """

    name: str
    command: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    post: bool = False
    url: str = ""


CONTENDERS = [
    Contender("cartpole", SERVE),
    Contender("cartpole --poll always", (*SERVE, "--poll", "always")),
    Contender("cartpole --http asgi", (*SERVE, "--http", "asgi")),
    Contender("cartpole --engine native", NATIVE),
    Contender("cartpole --engine native --poll always", (*NATIVE, "--poll", "always")),
    Contender(FLOOR, (sys.executable, str(PEERS / "fixed.py"), "{port}")),
    Contender(
        "fixed answer, spinning", (sys.executable, str(PEERS / "fixed.py"), "{port}", "spin")
    ),
    Contender("nginx, fixed answer", ("nginx", "-c", "{nginx}")),
    Contender("raw ASGI on uvicorn", (sys.executable, *UVICORN, "raw_asgi:app")),
    Contender(
        "FastAPI", ("{python}", *UVICORN, "fastapi_app:app"), ("fastapi", "uvicorn[standard]")
    ),
    Contender(
        "LitServe", ("{python}", str(PEERS / "litserve_app.py"), "{port}"), ("litserve",), post=True
    ),
]


def from_checkout(contender: Contender, checkout: Path) -> Contender:
    """The same command in another checkout of this project."""
    command = ("env", "-C", str(checkout), *contender.command)
    return Contender(f"{contender.name}, {checkout.name}", command)


def flags_of(checkout: Path) -> set[str]:
    """The flags that the service of another checkout knows."""
    command = ["env", "-C", str(checkout), *SERVE[:3], "--help"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"--[a-z][a-z-]*", shown))


def with_checkout(
    contenders: list[Contender], checkout: Path
) -> tuple[list[Contender], dict[str, str], list[str]]:
    """Put each of our servers beside the same one of another checkout.

    Returns:
        all contenders; the pairs, ours to the other's name; and the names of our servers that the
        other checkout can't start, because it does not know one of their flags.
    """
    known = flags_of(checkout)
    both: list[Contender] = []
    pairs: dict[str, str] = {}
    unpaired: list[str] = []
    for contender in contenders:
        both.append(contender)
        if contender.command[: len(SERVE)] != SERVE:
            continue
        if {part for part in contender.command if part.startswith("--")} <= known:
            both.append(from_checkout(contender, checkout))
            pairs[contender.name] = both[-1].name
        else:
            unpaired.append(contender.name)
    return both, pairs, unpaired


def environment(contender: Contender) -> str:
    """The interpreter of a contender's environment, which is made on first use."""
    if not contender.packages:
        return sys.executable
    folder = ENVIRONMENTS / contender.name.lower()
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        print(f"installing {contender.name} …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for packages in (("torch==2.13.0",), ("numpy", *contender.packages)):
            subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
        (folder / "complete").touch()
    return str(python)


@contextmanager
def running(contender: Contender) -> Iterator[tuple[str, int]]:
    """URL and process id of a running contender; 0 for one that was running already."""
    if contender.url:
        yield contender.url, 0
        return
    with tempfile.TemporaryDirectory() as folder:
        configuration = Path(folder) / "nginx.conf"
        places = {"{python}": environment(contender), "{nginx}": str(configuration)}
        command = [places.get(part, part) for part in contender.command]

        def prepare(port: int) -> None:
            configuration.write_text(NGINX.format(folder=folder, port=port))

        variables = {"CARTPOLE_MODEL": str(BUNDLED_MODEL), "PYTHONPATH": str(PEERS)}
        with serving(command=command, cpu=SERVER_CPU, environ=variables, prepare=prepare) as server:
            yield f"http://127.0.0.1:{server.port}", server.process.pid


def check(contender: Contender, url: str) -> None:
    """Raise RuntimeError unless the answer is the policy's."""
    values = {"position": 0.0, "velocity": 0.0, "angle": -1.0, "angular_velocity": 0.0}
    data = json.dumps(values).encode() if contender.post else None
    request = urllib.request.Request(f"{url}/inference?{QUERY}", data)
    request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5) as response:
                answer = json.load(response)
            break
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
    found = torch.tensor([answer["left"], answer["right"]])
    if not logits_close(found, torch.tensor(EXPECTED)):
        raise RuntimeError(f"{contender.name} answers {answer}")
