"""Log lines."""

import json
import logging
import os

from cartpole.logs import JsonFormatter


def test_a_json_line_of_a_path_that_is_not_utf8() -> None:
    path = os.fsdecode(b"/models/\xff.pt")
    record = logging.LogRecord("cartpole", logging.INFO, "", 0, "serves %s", (path,), None)
    assert json.loads(JsonFormatter().format(record))["message"] == r"serves /models/\udcff.pt"
