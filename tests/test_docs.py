"""The documents agree with the code, and with each other."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import torch

from cartpole.metrics.counters import SharedCounters
from cartpole.metrics.prometheus import PolicyInfo, render_metrics
from cartpole.metrics.rejections import REJECTIONS
from cartpole.policy.loading import Policy
from cartpole.policy.tolerance import logits_close
from cartpole.settings import SETTINGS
from tests.support.conformance import ACCEPTED, REJECTED
from tests.support.paths import ROOT

README = (ROOT / "README.md").read_text()
DOCUMENTS = [
    path
    for folder in (".", "docs", "deploy", "models/CartPole-v1")
    for path in sorted((ROOT / folder).glob("*.md"))
]
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
MAX_README_WORDS = 1500

EXAMPLES = {"--greeting", "cartpole/policy/plain.py"}  # of CONTRIBUTING.md, to be written
RESULTS = {"bench/results/"}  # made by running
FOREIGN_FLAGS = {
    "--build-arg",
    "--env",
    "--factory",
    "--format",
    "--help",
    "--index-url",
    "--read-only",
    "--rm",
    "--strict",
    "--url",
}  # of other programs

Rows = list[tuple[str, bytes, int]]


def names(documents: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in documents]


def anchors(document: str) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    text = re.sub(r"^```.*?^```$", "", document, flags=re.M | re.S)  # there # opens a comment
    headings = re.findall(r"^#+ +(.+)$", text, re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def relative_links(document: Path) -> Iterator[tuple[Path, str]]:
    """The file and the anchor, which may be empty, of each link into the project."""
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if not re.match(r"\w+:", target):
            path, _, anchor = target.partition("#")
            yield (document.parent / path if path else document), anchor


def conformance_table(rows: Rows) -> str:
    """The table of docs/conformance.md for these rows of tests/support/conformance.py."""
    lines = ["| RFC | section | case | answer |", "|---|---|---|---|"]
    for name, _, status in rows:
        section, _, case = name.partition(" ")
        lines.append(f"| {section.replace('-', ' | ')} | {case} | {status} |")
    return "\n".join(lines)


@pytest.mark.parametrize("document", DOCUMENTS, ids=names(DOCUMENTS))
def test_links_lead_somewhere(document: Path) -> None:
    for path, anchor in relative_links(document):
        assert path.exists(), f"{path} does not exist"
        assert not anchor or anchor in anchors(path.read_text()), f"{path} has no #{anchor}"


def test_anchors_are_those_of_headings() -> None:
    assert anchors("# A b\n```\n# c\n```\n## `--d`, e") == {"a-b", "--d-e"}


@pytest.mark.parametrize("document", CURRENT, ids=names(CURRENT))
def test_verbs_of_make_exist(document: Path) -> None:
    verbs = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"(?:`|^\$ |^ {4})make ([a-z][\w-]*)", document.read_text(), re.M)
    assert set(named) <= verbs


@pytest.mark.parametrize("document", CURRENT, ids=names(CURRENT))
def test_flags_exist(document: Path) -> None:
    sources = [
        path.read_text()
        for name in ("bench", "tools", "cartpole/integrations")
        for path in ROOT.glob(f"{name}/*.py")
    ]
    ours = {flag for setting in SETTINGS for flag in (*setting.opts, *setting.secondary_opts)}
    tools = set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', "\n".join(sources)))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", document.read_text()))
    assert named <= ours | tools | FOREIGN_FLAGS | EXAMPLES


@pytest.mark.parametrize("document", CURRENT, ids=names(CURRENT))
def test_files_exist(document: Path) -> None:
    pattern = r"`((?:bench|cartpole|deploy|models|tests|tools)/[\w/.-]+)"
    for name in set(re.findall(pattern, document.read_text())) - EXAMPLES - RESULTS:
        assert (ROOT / name).exists(), f"{name} does not exist"


def test_architecture_names_every_module() -> None:
    named = re.findall(
        r"^\| `(cartpole/\S+\.py)` \|", (ROOT / "docs/architecture.md").read_text(), re.M
    )
    modules = [str(path.relative_to(ROOT)) for path in (ROOT / "cartpole").rglob("*.py")]
    rooms = {name for name in modules if re.fullmatch(r"cartpole/\w+/__init__\.py", name)}
    assert sorted(named) == sorted(set(modules) - rooms)


def test_metrics_are_those_rendered() -> None:
    rendered = render_metrics(SharedCounters(1), PolicyInfo("", "", "")).decode()
    existing = re.findall(r"^# TYPE (cartpole_\w+) (\w+)$", rendered, re.M)
    text = (ROOT / "docs/operations.md").read_text()
    assert set(re.findall(r"^\| `(cartpole_\w+)` \| (\w+) \|", text, re.M)) == set(existing)


def test_rejections_are_listed() -> None:
    _, _, text = (ROOT / "docs/api.md").read_text().partition("## Requests that reach no route")
    listed = [int(status) for status in re.findall(r"^\| (\d+) \|", text, re.M)]
    assert listed == [int(each.status) for each in REJECTIONS]


def test_conformance_lists_every_case() -> None:
    text = (ROOT / "docs/conformance.md").read_text()
    assert conformance_table(REJECTED) in text
    assert conformance_table(ACCEPTED) in text


def test_readme_is_short() -> None:
    assert len(README.split()) <= MAX_README_WORDS


def test_answer_of_curl(policy: Policy) -> None:
    ((query, answer),) = re.findall(r"^\$ curl '\S+/inference\?(\S+)'\n(.+)$", README, re.M)
    golden, logits = policy.metadata["golden"], json.loads(answer)
    assert [float(value) for _, value in parse_qsl(query)] == golden["observation"]
    found = torch.tensor([logits["left"], logits["right"]])
    assert logits_close(found, torch.tensor(golden["logits"]))


def test_example_of_the_library() -> None:
    *_, (program, printed) = re.findall(r"```python\n(.+?)```\n+```\n(.+?)```", README, re.S)
    assert "import cartpole" in program
    command = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stderr == ""
    found, expected = done.stdout.split(), printed.split()
    assert found[2:] == expected[2:]
    pairs = (torch.tensor([float(word) for word in words[:2]]) for words in (found, expected))
    assert logits_close(*pairs)
