"""The wheel, its requirements, other ASGI servers, and imports."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import torch

from bench.server import Server, free_port, serving
from cartpole.page.routes import DESCRIPTION, FILES
from cartpole.policy.loading import Policy
from cartpole.policy.tolerance import logits_close
from tests.support.paths import GOLDEN, ROOT
from tests.support.processes import SERVE


def test_under_another_asgi_command() -> None:
    command = [sys.executable, "-m", "uvicorn", "--factory", "cartpole.app:create_app"]
    environ = {"CARTPOLE_ACCESS_LOG": "on"}
    with serving(command=[*command, "--port", "{port}"], environ=environ) as running:
        assert running.get(f"/inference?{GOLDEN}")[0] == 200
        assert running.get("/")[0] == 200
        running.process.terminate()
        _, log = running.process.communicate(timeout=30)
    lines = [line for line in log.splitlines() if line.endswith("127.0.0.1") and "µs" in line]
    for line, target in zip(lines, (f"/inference?{GOLDEN}", "/"), strict=True):
        assert f"] GET {target} 200 " in line


def test_from_a_wheel_in_another_folder(tmp_path: Path, policy: Policy) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", site, wheel],
        check=True,
        capture_output=True,
    )
    port = free_port()
    process = subprocess.Popen(
        [*SERVE, "--port", str(port)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    assert str(site / "cartpole/models/CartPole-v1/model_traced.pt") in process.stderr.readline()
    server = Server(process, port)
    logits = json.loads(server.get(f"/inference?{GOLDEN}")[1])
    pages = {"index.html": "/", "docs.html": "/docs"}
    for path in (*FILES.iterdir(), DESCRIPTION):
        assert server.get(pages.get(path.name, f"/{path.name}")) == (200, path.read_bytes())
    process.terminate()
    process.communicate(timeout=30)
    expected = policy.forward(torch.tensor([[0.0, 0.0, -1.0, 0.0]]))
    assert logits_close(torch.tensor([[logits["left"], logits["right"]]]), expected)


def test_imports_no_more_than_it_needs() -> None:
    """Neither the command nor the application imports packages of the extras."""
    program = (
        "import sys, cartpole.app, cartpole.serve;"
        "extras = {'gymnasium', 'stable_baselines3', 'pyperf', 'rl_zoo3', 'hypothesis', 'numba',"
        " 'aiohttp', 'PIL', 'playwright', 'tritonclient', 'ray'};"
        "print(sorted(extras & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "[]\n"
    program = "import cartpole.serve, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "False\n"


def test_serving_needs_only_what_it_should() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split("[>=]", requirement)[0] for requirement in project["dependencies"]]
    assert names == [
        "starlette",
        "click",
        "uvicorn[standard]",
        "httptools",
        "orjson",
        "torch",
        "prometheus-client",
    ]
    assert "torch==2.13.0" in project["dependencies"]
