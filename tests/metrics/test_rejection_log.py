"""The log of rejections: one line for many."""

import pytest

from cartpole.metrics.counters import COLUMNS, WorkerCounters
from cartpole.metrics.rejection_log import RejectionLog
from cartpole.metrics.rejections import NOT_HTTP, TOO_SLOW


def test_at_most_one_line_in_ten_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = [1000.0]
    monkeypatch.setattr("cartpole.logs.monotonic", lambda: now[0])
    counters = WorkerCounters()
    log = RejectionLog(counters)
    for _ in range(30):
        now[0] += 1
        log.record(NOT_HTTP)
        log.report()
    assert caplog.messages == [
        f"rejected since the last such line: {count} of 400" for count in (1, 10, 10)
    ]
    log.record(TOO_SLOW)
    now[0] += 10
    log.report()
    log.report()
    assert caplog.messages[3:] == ["rejected since the last such line: 9 of 400, 1 of 408"]
    assert counters.cells[COLUMNS.rejections[NOT_HTTP.reason]] == 30
