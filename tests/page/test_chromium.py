"""Whether there is a Chromium to try the live page in: one line where there is none."""

import os


def test_there_is_a_browser_for_the_live_page(chromium: str) -> None:
    assert os.access(chromium, os.X_OK)
