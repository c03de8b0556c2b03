"""Imports between the rooms of the package run one way, downwards, and never in a circle."""

import ast
from graphlib import TopologicalSorter

import pytest

from tests.support.paths import ROOT

PACKAGE = ROOT / "cartpole"

# The rooms in the order of a request, and what each may import: the picture in
# docs/architecture.md. `cartpole` stands for the package itself, which only re-exports.
MAY_IMPORT = {
    "integrations": {"api", "predictor", "process", "settings", "logs"},
    "serve": {"process", "settings", "logs"},
    "process": {"app", "http", "v2", "api", "predictor", "metrics", "settings", "logs", "version"},
    "http": {"v2", "api", "predictor", "metrics", "logs"},
    "app": {"page", "v2", "api", "predictor", "metrics", "settings", "logs"},
    "page": {"api"},
    "v2": {"api", "predictor", "metrics", "version"},
    "api": {"predictor", "metrics", "logs"},
    "cartpole": {"predictor", "version"},
    "predictor": {"policy", "metrics", "settings"},
    "policy": set(),
    "metrics": {"logs"},
    "logs": {"settings"},
    "settings": {"options", "version"},
    "options": set(),
    "version": set(),
}


def imports() -> dict[str, set[str]]:
    """Each module, and the modules of the package that it imports, wherever in its code."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        found[name] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cartpole"):
                assert node.level == 0
                for alias in node.names:
                    whole = f"{node.module}.{alias.name}"
                    is_module = (ROOT / f"{whole.replace('.', '/')}.py").exists()
                    found[name].add(whole if is_module else node.module or "")
            elif isinstance(node, ast.Import):
                found[name] |= {a.name for a in node.names if a.name.startswith("cartpole")}
    return found


IMPORTS = imports()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else module


@pytest.mark.parametrize("module", IMPORTS)
def test_a_room_imports_only_rooms_below_it(module: str) -> None:
    targets = {room(target) for target in IMPORTS[module]} - {room(module)}
    assert targets <= MAY_IMPORT[room(module)]


def test_no_module_imports_itself_in_a_circle() -> None:
    order = list(TopologicalSorter(IMPORTS).static_order())  # CycleError names the circle
    assert set(order) >= set(IMPORTS)


def test_the_rooms_are_those_of_the_package() -> None:
    assert {room(module) for module in IMPORTS} == set(MAY_IMPORT)
