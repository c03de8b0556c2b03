"""deploy/kubernetes and deploy/kserve: their schemas, and their parts against each other."""

import base64
import copy
import re
import shutil
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

from bench.server import serving
from cartpole.metrics.routes import BATCH_ROUTES
from cartpole.settings import BUNDLED_MODEL
from cartpole.version import __version__
from tests.support.manifests import (
    KSERVE,
    KUBERNETES,
    Object,
    build,
    check,
    pick,
    pod_specs,
    read,
)
from tests.support.metrics import scrape
from tests.support.needs import may_lack
from tests.support.paths import GOLDEN
from tests.support.v2 import INFER, infer

PLAIN = [
    path
    for folder in (KUBERNETES, KSERVE)
    for path in sorted(folder.glob("*.yaml"))
    if path.stem not in {"kustomization", "prometheus-adapter-rules"}
]
FOLDERS = ["kubernetes", "kserve", "policy-configmap", "policy-download"]


def objects(folder: str, scratch: Path) -> list[Object]:
    """The objects built from a folder of deploy/, a component together with deploy/kubernetes."""
    if folder == "kserve":
        return build(KSERVE)
    copied = shutil.copytree(KUBERNETES, scratch / "kubernetes")
    shutil.copy(BUNDLED_MODEL, copied / "policy-configmap/model_traced.pt")
    if folder != "kubernetes":
        with (copied / "kustomization.yaml").open("a") as file:
            file.write(f"components: [{folder}]\n")
    return build(copied)


@pytest.fixture(params=FOLDERS)
def built(request: pytest.FixtureRequest, tmp_path: Path) -> list[Object]:
    return objects(request.param, tmp_path)


@pytest.mark.parametrize("path", PLAIN, ids=[f"{p.parent.name}/{p.stem}" for p in PLAIN])
def test_file_fits_its_schema(path: Path) -> None:
    found = read(path.read_text())
    assert len(found) == 1
    for one in found:
        check(one)


@may_lack("kubectl")
def test_what_is_built_fits_its_schemas(built: Sequence[Object]) -> None:
    for one in built:
        check(one)
    names = {image for spec in pod_specs(built) for image in images(spec)}
    assert names == {f"cartpole:{__version__}"}


def images(spec: Object) -> set[str]:
    return {one["image"] for kind in ("containers", "initContainers") for one in spec.get(kind, [])}


@pytest.mark.parametrize("path", PLAIN, ids=[f"{p.parent.name}/{p.stem}" for p in PLAIN])
def test_an_unknown_field_is_refused(path: Path) -> None:
    (one,) = read(path.read_text())
    bad = copy.deepcopy(one)
    bad["spec"]["replica"] = 2
    with pytest.raises((jsonschema.ValidationError, kubernetes_validate.ValidationError)):
        check(bad)


def test_a_kind_without_a_schema_is_refused() -> None:
    with pytest.raises(kubernetes_validate.SchemaNotFoundError):
        check({"apiVersion": "example.org/v1", "kind": "Other", "metadata": {"name": "x"}})


@may_lack("kubectl")
def test_all_pods_are_restricted(built: Sequence[Object]) -> None:
    """As the Pod Security Standards' profile `restricted` asks, and with a read-only root."""
    for spec in pod_specs(built):
        shared = spec.get("securityContext", {})
        for one in [*spec["containers"], *spec.get("initContainers", [])]:
            context = shared | one["securityContext"]
            assert context["runAsNonRoot"] is True
            assert context["runAsUser"] > 0
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["readOnlyRootFilesystem"] is True
        kinds = {kind for volume in spec.get("volumes", []) for kind in volume} - {"name"}
        assert kinds <= {"configMap", "emptyDir"}


@may_lack("kubectl")
def test_selectors_find_the_pods(tmp_path: Path) -> None:
    built = objects("kubernetes", tmp_path)
    deployment, service = pick(built, "Deployment"), pick(built, "Service")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    selectors = [
        service["spec"]["selector"],
        deployment["spec"]["selector"]["matchLabels"],
        pick(built, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        pick(built, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    assert selectors == [labels] * 4
    monitor = pick(built, "ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    (port,) = service["spec"]["ports"]
    assert monitor["endpoints"][0]["port"] == port["name"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert [one["name"] for one in container["ports"]] == [port["targetPort"]]
    (rule,) = pick(built, "NetworkPolicy")["spec"]["ingress"]
    assert rule["ports"] == [{"port": port["targetPort"]}]
    assert {"podSelector": {"matchLabels": {"cartpole-client": "true"}}} in rule["from"]
    target = pick(built, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
    assert "replicas" not in deployment["spec"], "an apply would undo the autoscaler's work"


def test_autoscaler_reads_a_metric_of_the_service() -> None:
    (rule,) = yaml.safe_load((KUBERNETES / "prometheus-adapter-rules.yaml").read_text())["rules"]
    (autoscaler,) = read((KUBERNETES / "horizontal-pod-autoscaler.yaml").read_text())
    (metric,) = autoscaler["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    name = rule["seriesQuery"].partition("{")[0]
    assert rule["name"]["matches"] == f"^{name}$"
    (monitor,) = read((KUBERNETES / "service-monitor.yaml").read_text())
    with serving() as server:
        server.get(f"/inference?{GOLDEN}")
        assert server.get("/v2/models/cartpole")[0] == 200  # no inference
        url = f"http://127.0.0.1:{server.port}{INFER}"
        assert urllib.request.urlopen(url, infer(), timeout=30).status == 200
        assert server.get(monitor["spec"]["endpoints"][0]["path"])[0] == 200
        series = {dict(labels).get("route") for found, labels in scrape(server) if found == name}
    for query in (rule["seriesQuery"], rule["metricsQuery"]):
        (routes,) = re.findall(r'route=~"([^"]+)"', query)
        assert {route for route in series if re.fullmatch(routes, str(route))} == {*BATCH_ROUTES}


@may_lack("kubectl")
def test_policy_of_a_config_map(tmp_path: Path) -> None:
    built = objects("policy-configmap", tmp_path)
    found = pick(built, "ConfigMap")
    data = base64.b64decode(found["binaryData"]["model_traced.pt"])
    assert data == BUNDLED_MODEL.read_bytes()
    (spec,) = pod_specs(built)
    (volume,), (container,) = spec["volumes"], spec["containers"]
    assert volume["configMap"]["name"] == found["metadata"]["name"] != "cartpole-policy"
    (mount,) = container["volumeMounts"]
    environment = {one["name"]: one["value"] for one in container["env"]}
    assert environment["CARTPOLE_MODEL"] == f"{mount['mountPath']}/model_traced.pt"


def test_kserve_declares_protocol_v2() -> None:
    (runtime,) = read((KSERVE / "serving-runtime.yaml").read_text())
    (service,) = read((KSERVE / "inference-service.yaml").read_text())
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    assert [model["protocolVersion"]] == runtime["spec"]["protocolVersions"] == ["v2"]
    (supported,) = runtime["spec"]["supportedModelFormats"]
    assert supported["name"] == model["modelFormat"]["name"]
