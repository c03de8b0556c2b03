"""Tests of tools/recording.py, and of the GIF in docs/."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageSequence

from tests.support.paths import ROOT
from tools.closed_loop import Step
from tools.evaluate import main
from tools.recording import record

SHIPPED = ROOT / "docs/evaluate.gif"


def durations(path: Path) -> list[int]:
    with Image.open(path) as image:
        return [frame.info["duration"] for frame in ImageSequence.Iterator(image)]


def test_one_episode_in_real_time(tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "episode.gif"
    assert main(["--episodes", "1", "--seed", "76", "--record", str(path)]) == 0
    assert capsys.readouterr().err == ""
    assert durations(path) == [40] * 250  # 500 steps of 20 ms
    assert path.stat().st_size <= 150 * 1024
    with Image.open(path) as new, Image.open(SHIPPED) as shipped:
        assert (new.size, new.info["loop"]) == (shipped.size, 0)


def test_one_palette_of_at_most_16_colours() -> None:
    with Image.open(SHIPPED) as image:
        flags = SHIPPED.read_bytes()[10]
        assert 2 ** ((flags & 7) + 1) <= 16  # the size of the table in the GIF's head
        colours = set()
        for frame in ImageSequence.Iterator(image):
            found = frame.convert("RGB").getcolors(16)
            assert found
            colours |= {colour for _, colour in found}
    assert 3 < len(colours) <= 16


def test_the_shipped_recording_shows_500_steps() -> None:
    assert sum(durations(SHIPPED)) == 10_000


def test_an_episode_that_ends_early(tmp_path: Path) -> None:
    steps = [Step((0.0, 0.0, 0.01 * number, 0.0), 1.0, -1.0) for number in range(9)]
    record(steps, 0, tmp_path / "short.gif")
    assert durations(tmp_path / "short.gif") == [40] * 5


def test_a_file_that_cannot_be_written() -> None:
    with pytest.raises(OSError, match="No space left"):
        record([Step((0.0, 0.0, 0.0, 0.0), 1.0, -1.0)] * 4, 0, Path("/dev/full"))
