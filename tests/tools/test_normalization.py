"""Tests of tools/normalization.py and `--normalize`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cartpole.policy.loading import load
from tests.support.agents import SHIPPED
from tests.support.environments import cartpole_statistics
from tests.support.paths import ROOT
from tools.export_model import main
from tools.networks import BadAgent
from tools.normalization import CONVERT, read_statistics

GOOD = {"mean": [0, 1, 2, 3.5], "variance": [1, 2, 3, 0], "epsilon": 1e-8, "clip": 10}


def test_statistics_are_part_of_the_model_and_its_metadata(tmp_path: Path, capsys: Any) -> None:
    stats, model = tmp_path / "stats.json", tmp_path / "model.pt"
    stats.write_text(json.dumps(GOOD))
    command = [str(SHIPPED), "--output", str(model), "--normalize", str(stats)]
    assert main(command) == 0
    assert load(model).metadata["normalization"] == GOOD
    assert '"clip": 10' in capsys.readouterr().out


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path, capsys: Any) -> None:
    _, stats = cartpole_statistics(tmp_path)
    expected = read_statistics(stats)
    stats.unlink()
    pickle, model = tmp_path / "vecnormalize.pkl", tmp_path / "model.pt"
    assert main(["--output", str(model), "--normalize", str(pickle)]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not model.exists()
    _, _, command = error.strip().partition("makes the JSON of it: ")
    command = command.replace("python", sys.executable, 1)
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert read_statistics(stats) == expected


def test_a_pickle_of_any_name_is_not_unpickled(tmp_path: Path) -> None:
    class Malicious:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "was-run",))

    import pickle

    path = tmp_path / "stats.json"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(Malicious(), protocol=protocol))
        with pytest.raises(BadAgent):
            read_statistics(path)
    assert not (tmp_path / "was-run").exists()


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in GOOD.items() if key != name}


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (without("mean"), "found 'variance', 'epsilon', 'clip', expected JSON like"),
        (without("clip"), "found 'mean', 'variance', 'epsilon', expected"),
        (GOOD | {"more": 1}, "'more', expected"),
        ({}, "found nothing, expected"),
        ([1], "found list, expected"),
        (GOOD | {"mean": [0, 1, 2]}, r"found \[0, 1, 2\] as mean, expected"),
        (GOOD | {"variance": 1}, "found 1 as variance, expected"),
        (GOOD | {"mean": [0, 1, 2, "3"]}, "found '3' in mean, expected"),
        (GOOD | {"mean": [0, 1, 2, True]}, "found True in mean, expected"),
        (GOOD | {"mean": [0, 1, 2, 10**400]}, "found 1000*.* in mean, expected"),
        (GOOD | {"mean": [0, 1, 2, float("nan")]}, "found nan in mean, expected"),
        (GOOD | {"clip": float("inf")}, "found inf in clip, expected"),
        (GOOD | {"clip": 0}, "that is not positive, expected"),
        (GOOD | {"variance": [1, 1, 1, -1]}, "that is not positive, expected"),
        (GOOD | {"epsilon": 0}, "that is not positive, expected"),
        ("{", "expected JSON like"),
        ("", "expected JSON like"),
        ("[" * 200_000, "nests too deeply"),
        ("\x00\xff", "expected JSON like"),
    ],
)
def test_other_contents_are_rejected(tmp_path: Path, content: Any, found: str) -> None:
    path = tmp_path / "stats.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(BadAgent, match=found) as raised:
        read_statistics(path)
    assert "\n" not in str(raised.value)


def test_a_missing_file(tmp_path: Path, capsys: Any) -> None:
    arguments = ["--output", str(tmp_path / "m.pt"), "--normalize", str(tmp_path / "none.json")]
    assert main(arguments) == 1
    assert "none.json: No such file or directory" in capsys.readouterr().err


def test_the_page_shows_the_same_command() -> None:
    assert CONVERT in (ROOT / "docs/models.md").read_text()
