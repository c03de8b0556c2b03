"""openapi.json against the application: routes, bounds, names, examples."""

import itertools
import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator, validate
from starlette.routing import Route

from bench.server import Server
from cartpole.api.inference import Inference
from cartpole.api.observation import NAMES
from cartpole.api.request_bodies import HEADER_LENGTH
from cartpole.api.rows import MAX_BATCH
from cartpole.app import create_app
from cartpole.metrics.rejections import REJECTIONS
from cartpole.metrics.routes import FILE_STATUSES, STATUSES
from cartpole.page.routes import DESCRIPTION, page_routes
from cartpole.policy.contract import Engine
from cartpole.predictor import FLOAT32_OVERFLOW, OBSERVATIONS, Predictor
from cartpole.v2.contract import INPUT, MODEL, OUTPUTS, PLATFORM, VERSION
from cartpole.v2.tensors import DATATYPES
from tests.support.asgi import get

Document = dict[str, Any]


def resolved(document: Document, value: Document) -> Document:
    """The value, or what its $ref points to."""
    if "$ref" not in value:
        return value
    found = document
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


def operations(document: Document) -> Iterator[tuple[str, str, Document]]:
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield path, method, operation


def parameters(document: Document, operation: Document) -> list[Document]:
    return [resolved(document, one) for one in operation.get("parameters", [])]


def paths_of(document: Document, path: str, operation: Document) -> list[str]:
    """The paths that a template stands for: its parameters are enumerations."""
    choices = {
        one["name"]: resolved(document, one["schema"])["enum"]
        for one in parameters(document, operation)
        if one["in"] == "path"
    }
    return [
        path.format(**dict(zip(choices, values, strict=True)))
        for values in itertools.product(*choices.values())
    ]


def test_it_is_valid(document: Document) -> None:
    assert document["openapi"].startswith("3.1.")
    validate(document, cls=OpenAPIV31SpecValidator)


def test_every_reference_is_used_and_every_operation_has_its_own_name(document: Document) -> None:
    text = DESCRIPTION.read_text()
    for kind, components in document["components"].items():
        for name in components:
            assert f'"$ref": "#/components/{kind}/{name}"' in text, name
    names = [operation["operationId"] for _, _, operation in operations(document)]
    assert len(set(names)) == len(names)


def test_it_has_the_routes_of_the_application(document: Document, engine: Engine) -> None:
    app = create_app(Inference(Predictor(engine)))
    described = {
        (found, method.upper())
        for path, method, operation in operations(document)
        for found in paths_of(document, path, operation)
    }
    assert described == {
        (route.path, method)
        for route in app.routes
        if isinstance(route, Route)
        for method in route.methods or ()
    }


def test_each_operation_has_the_statuses_that_it_may_answer_with(document: Document) -> None:
    any_route = {*(int(each.status) for each in REJECTIONS), 200, 400, 500, 503}
    files = {route.path for route in page_routes()} | {"/openapi.json"}
    for path, method, operation in operations(document):
        if method == "head":
            assert operation["responses"].keys() >= {"200", "4XX", "5XX"}
            continue
        statuses = set(map(int, operation["responses"]))
        is_file = not files.isdisjoint(paths_of(document, path, operation))
        assert statuses >= any_route
        # 405 is of no operation, and 204 of no path.
        possible = {*STATUSES, *(FILE_STATUSES if is_file else ())} - {204, 405}
        assert statuses - any_route <= possible, path
        if is_file:
            assert statuses >= set(FILE_STATUSES) - {405}
        assert (404 in statuses) == ("{" in path or path in ("/", "/docs"))
        has_coding = "Content-Encoding" in {one["name"] for one in parameters(document, operation)}
        assert (415 in statuses) == has_coding == (method == "post")


def test_names_and_bounds_are_those_of_the_code(document: Document) -> None:
    schemas = document["components"]["schemas"]
    query = parameters(document, document["paths"]["/inference"]["get"])
    assert [one["name"] for one in query] == list(NAMES)
    assert schemas["Float32"]["exclusiveMaximum"] == FLOAT32_OVERFLOW
    assert schemas["Float32"]["exclusiveMinimum"] == -FLOAT32_OVERFLOW
    observations = schemas["Observations"]
    assert (observations["minItems"], observations["maxItems"]) == (1, MAX_BATCH)
    assert schemas["Observation"]["minItems"] == schemas["Observation"]["maxItems"] == OBSERVATIONS
    assert (schemas["ModelName"]["enum"], schemas["ModelVersion"]["enum"]) == ([MODEL], [VERSION])
    assert schemas["Datatype"]["enum"] == list(DATATYPES)
    assert schemas["OutputName"]["enum"] == list(OUTPUTS)
    assert schemas["Model"]["properties"]["platform"]["const"] == PLATFORM
    tensor = schemas["InputTensor"]["properties"]
    assert tensor["name"]["const"] == INPUT
    assert tensor["shape"]["prefixItems"][0]["maximum"] == MAX_BATCH
    lengths = [one["maxItems"] for one in tensor["data"]["anyOf"]]
    assert lengths == [MAX_BATCH * OBSERVATIONS, MAX_BATCH]
    name = document["components"]["parameters"]["InferenceHeaderContentLength"]["name"]
    assert name.lower() == HEADER_LENGTH.decode()


def test_each_datatype_has_its_own_bounds(document: Document) -> None:
    bounded = {}
    for one in document["components"]["schemas"]["InputTensor"]["allOf"]:
        datatype = one["if"]["properties"]["datatype"]
        flat, rows = one["then"]["properties"]["data"]["anyOf"]
        assert rows["items"]["items"] == flat["items"]
        for name in datatype.get("enum", [datatype.get("const")]):
            bounded[name] = resolved(document, flat["items"])
    assert bounded.keys() == DATATYPES.keys()
    for name, schema in bounded.items():
        if match := re.fullmatch(r"(U?)INT(\d+)", name):
            bits = int(match[2])
            low, high = (0, 2**bits) if match[1] else (-(2 ** (bits - 1)), 2 ** (bits - 1))
            assert (schema["type"], schema["minimum"]) == ("integer", low)
            assert schema["maximum"] == high - 1
    assert bounded["FP16"]["exclusiveMaximum"] == 65520  # rounds to infinity
    assert bounded["FP32"] == bounded["FP64"] == document["components"]["schemas"]["Float32"]


def test_the_headers_of_files_are_as_described(document: Document, engine: Engine) -> None:
    app = create_app(Inference(Predictor(engine)))
    for path in ("/", "/docs", "/openapi.json"):
        found = {name.decode(): value.decode() for name, value in get(app, path)[1].items()}
        described = document["paths"][path]["get"]["responses"]["200"]["headers"]
        for name, header in described.items():
            schema = resolved(document, header)["schema"]
            assert found.get(name.lower()) == schema.get("const", found.get(name.lower())), name


def test_without_the_pages_it_is_still_served(engine: Engine) -> None:
    app = create_app(Inference(Predictor(engine)), page=False)
    assert get(app, "/docs")[0] == 404
    status, headers, body = get(app, "/openapi.json")
    assert (status, headers[b"content-type"]) == (200, b"application/json")
    assert body == DESCRIPTION.read_bytes()


EXAMPLES = [
    (path, method)
    for path, method, operation in operations(json.loads(DESCRIPTION.read_text()))
    if "example" in operation["responses"]["200"].get("content", {}).get("application/json", {})
]


@pytest.mark.parametrize(("path", "method"), EXAMPLES)
def test_examples_are_what_the_service_answers(
    document: Document, server: Server, path: str, method: str
) -> None:
    operation = document["paths"][path][method]
    given = parameters(document, operation)
    query = {one["name"]: one["example"] for one in given if one["in"] == "query"}
    filled = path.format(**{one["name"]: one["example"] for one in given if one["in"] == "path"})
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    body = json.dumps(content["example"]).encode() if content else None
    url = f"http://127.0.0.1:{server.port}{filled}?{urlencode(query)}"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=30) as response:
        found = json.load(response)
    example = operation["responses"]["200"]["content"]["application/json"]["example"]
    assert rounded(found) == rounded(example)


def rounded(value: Any) -> Any:
    """Logits may differ in their last digits between processors."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return round(value, 2) if isinstance(value, float) else value
