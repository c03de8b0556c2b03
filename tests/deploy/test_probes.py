"""Probes, preStop and init container of deploy/, against real processes."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.server import Server, serving
from cartpole.settings import BUNDLED_MODEL
from tests.support.container import image_environment
from tests.support.manifests import KSERVE, KUBERNETES, Object, read
from tests.support.paths import GOLDEN
from tests.support.processes import start_error
from tests.support.waiting import wait_until

(DEPLOYMENT,) = read((KUBERNETES / "deployment.yaml").read_text())
(RUNTIME,) = read((KSERVE / "serving-runtime.yaml").read_text())
(INFERENCE_SERVICE,) = read((KSERVE / "inference-service.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
both = pytest.mark.parametrize(
    ("spec", "grace"),
    [
        (POD, POD["terminationGracePeriodSeconds"]),
        (
            RUNTIME["spec"],
            INFERENCE_SERVICE["spec"]["predictor"]["terminationGracePeriodSeconds"],
        ),
    ],
    ids=["kubernetes", "kserve"],
)


def environment(container: Object) -> dict[str, str]:
    """Environment of the container's process: the image's variables, then the container's."""
    return image_environment() | {one["name"]: one["value"] for one in container["env"]}


def pre_stop(container: Object) -> list[str]:
    found: list[str] = (
        container.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["true"])
    )
    return found


def probe(server: Server, container: Object, name: str) -> int:
    """The status that a probe gets."""
    get = container[f"{name}Probe"]["httpGet"]
    (port,) = container["ports"]
    assert get["port"] in (port.get("name"), port["containerPort"])
    return server.get(get["path"])[0]


@both
def test_times_fit_each_other(spec: Object, grace: int) -> None:
    (container,) = spec["containers"]
    found = environment(container)
    drain = int(found["CARTPOLE_DRAIN_SECONDS"])
    waiting = sum(int(word) for word in pre_stop(container) if word.isdigit())
    assert waiting + drain + int(found["CARTPOLE_SHUTDOWN_TIMEOUT"]) < grace
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < drain
    assert int(found["CARTPOLE_PORT"]) == container["ports"][0]["containerPort"]


@both
def test_probes_and_pre_stop(spec: Object, grace: int) -> None:
    (container,) = spec["containers"]
    flags = [
        str(BUNDLED_MODEL) if flag == "/mnt/models/model_traced.pt" else flag
        for flag in container.get("args", [])
    ]
    given = environment(container) | {"CARTPOLE_DRAIN_SECONDS": "3", "CARTPOLE_HOST": "127.0.0.1"}
    with serving(*flags, environ=given) as server:
        assert [probe(server, container, name) for name in ("startup", "readiness")] == [200] * 2
        assert probe(server, container, "liveness") == 200
        began = time.monotonic()
        command = subprocess.Popen(pre_stop(container))
        while command.poll() is None:
            assert probe(server, container, "readiness") == 200
            assert server.get(f"/inference?{GOLDEN}")[0] == 200
            time.sleep(0.1)
        assert command.returncode == 0
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: probe(server, container, "readiness") == 503)
        assert probe(server, container, "liveness") == 200
        assert server.get(f"/inference?{GOLDEN}")[0] == 200
        assert server.process.wait(timeout=grace) == 0
        assert time.monotonic() - began < grace


def test_variables_of_a_service_are_kept_away() -> None:
    """Kubernetes would set CARTPOLE_PORT for a Service named cartpole."""
    code, line = start_error(CARTPOLE_PORT="tcp://10.0.0.1:80")
    assert code == 2
    assert "CARTPOLE_PORT" in line
    assert POD["enableServiceLinks"] is False
    (container,) = RUNTIME["spec"]["containers"]
    assert "CARTPOLE_PORT" in {one["name"] for one in container["env"]}


def download(folder: Path, sha256: str) -> subprocess.CompletedProcess[str]:
    """Run the init container's command, with a folder for /policy."""
    (patch,) = read((KUBERNETES / "policy-download/patch.yaml").read_text())
    (container,) = patch["spec"]["template"]["spec"]["initContainers"]
    python, flag, program = container["command"]
    assert python == "/opt/cartpole/bin/python"
    return subprocess.run(
        [sys.executable, flag, program.replace("/policy/", f"{folder}/")],
        env=os.environ | {"POLICY_URL": BUNDLED_MODEL.as_uri(), "POLICY_SHA256": sha256},
        capture_output=True,
        text=True,
    )


def test_a_policy_is_downloaded(tmp_path: Path) -> None:
    data = BUNDLED_MODEL.read_bytes()
    done = download(tmp_path, hashlib.sha256(data).hexdigest())
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "model_traced.pt").read_bytes() == data


def test_another_policy_is_refused(tmp_path: Path) -> None:
    done = download(tmp_path, hashlib.sha256(b"").hexdigest())
    assert (done.returncode, done.stderr) == (1, "POLICY_URL has another SHA-256\n")
    assert not list(tmp_path.iterdir())
