"""deploy/kubernetes and deploy/kserve as objects, and the schemas that they are held against."""

import json
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from tests.support.paths import ROOT

KUBERNETES, KSERVE = ROOT / "deploy/kubernetes", ROOT / "deploy/kserve"
CRDS = ROOT / "tests/deploy/crds"
VERSIONS = ("1.30", kubernetes_validate.latest_version())

Object = dict[str, Any]


def read(text: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(text) if one]


def build(folder: Path) -> list[Object]:
    """The objects that `kubectl apply -k` would send."""
    done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return read(done.stdout)


def pick(objects: Sequence[Object], kind: str) -> Object:
    """The only object of this kind."""
    (found,) = (one for one in objects if one["kind"] == kind)
    return found


@cache
def _custom(kind: str) -> Any:
    return json.loads((CRDS / f"{kind}.json").read_text())


def check(one: Object) -> None:
    """Hold an object against the schema of its kind.

    Raises:
        Exception: it does not fit, it has an unknown field, or there is no schema for it.
    """
    if (CRDS / f"{one['kind']}.json").exists():
        jsonschema.Draft202012Validator(_custom(one["kind"])).validate(one)
        bare = {key: value for key, value in one.items() if key == "metadata"}
        check({"apiVersion": "v1", "kind": "ConfigMap", **bare})
        if "containers" in one["spec"]:
            check(pod({"containers": one["spec"]["containers"]}))
        return
    for version in VERSIONS:
        kubernetes_validate.validate(one, version, strict=True)


def pod(spec: Object) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}


def pod_specs(objects: Sequence[Object]) -> Iterator[Object]:
    """The pod specification of each object that has one."""
    for one in objects:
        if one["kind"] == "Deployment":
            yield one["spec"]["template"]["spec"]
        elif one["kind"] == "ServingRuntime":
            yield one["spec"]
