"""The README agrees with the project."""

import re
import tomllib

from cartpole.settings import BUNDLED_MODEL, DECLARED
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_settings_table_is_the_settings() -> None:
    rows = re.findall(r"^\| `(--[\w-]+)` \| (.*?) ?\| (.+) \|$", README, re.M)
    shown = {"None": "", "False": "off", str(BUNDLED_MODEL): "the shipped one"}
    assert rows == [
        (setting.flag, shown.get(str(setting.default), str(setting.default)), setting.help)
        for setting in DECLARED
    ]


def test_every_verb_of_the_makefile_that_the_readme_names_exists() -> None:
    verbs = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake ([\w-]+)", README)) <= verbs


def test_every_module_that_the_readme_names_exists() -> None:
    modules = set(re.findall(r"`(cartpole/\w+\.py)`", README))
    existing = {f"cartpole/{path.name}" for path in (ROOT / "cartpole").glob("*.py")}
    assert modules == existing - {"cartpole/__init__.py"}


def test_serving_needs_only_what_it_should() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = [re.split("[>=]", requirement)[0] for requirement in project["dependencies"]]
    assert names == [
        "starlette",
        "uvicorn[standard]",
        "orjson",
        "torch",
        "prometheus-client",
    ]
    assert "torch==2.13.0" in project["dependencies"]
