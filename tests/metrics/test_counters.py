"""The counters: what their rows hold, across processes too."""

import asyncio
import logging
import os
import subprocess
import sys

import pytest

from cartpole.api.inference import Inference
from cartpole.metrics.counters import BATCH_SIZES, COLUMNS, SharedCounters, WorkerCounters
from cartpole.policy.contract import MAX_ROWS, Engine
from cartpole.predictor import Predictor
from tests.support.memory import Connection
from tests.support.paths import ROOT


def test_every_size_of_a_batch_is_counted() -> None:
    counters = WorkerCounters()
    for size in range(1, MAX_ROWS + 1):
        counters.record_forward(size, 1)
    first = COLUMNS.batch_size
    buckets = list(counters.cells[first : first + len(BATCH_SIZES) + 1])
    assert buckets == [1, 1, 2, 4, 8, 16, 32, 64, 128, 0]  # no batch exceeds the last limit
    assert counters.cells[first + len(buckets)] == sum(range(1, MAX_ROWS + 1))


def test_the_event_loop_counts_heartbeats(engine: Engine) -> None:
    predictor = Predictor(engine)

    async def pass_seconds() -> None:
        connections = Connection(Inference(predictor), True).shared.connections
        for _ in range(3):
            connections.tick()

    asyncio.run(pass_seconds())
    assert predictor.counters.cells[COLUMNS.heartbeats] == 3


def test_the_request_limit_counts_workers_that_have_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "cartpole")
    shared = SharedCounters(3)
    for row, numbers in ((1, (2, 3)), (1, (1, 4)), (2, (2,))):  # two workers in a row use row 1
        counters = WorkerCounters(shared, row)
        for number in numbers:
            counters.set_total_requests(number)
    assert not shared.limit_reached(10)
    assert caplog.messages == []
    assert shared.limit_reached(9)
    assert caplog.messages == ["--limit-requests 9 is reached: stopping"]


def test_rows_are_summed_and_outlive_their_process() -> None:
    shared = SharedCounters(3, memory := os.memfd_create("counters"))
    program = (
        "import sys; from cartpole.metrics.counters import *; "
        "counters = WorkerCounters(SharedCounters(3, int(sys.argv[1])), int(sys.argv[2])); "
        "counters.record_answers([(200, b'')] * 5 + [(400, b'')], 10)"
    )
    for row in (1, 2, 2):
        command = [sys.executable, "-c", program, str(memory), str(row)]
        subprocess.run(command, check=True, cwd=ROOT, pass_fds=[memory])
    os.close(memory)
    requests = COLUMNS.requests["/inference"]
    assert (shared.total(requests[200]), shared.total(requests[400])) == (15, 3)
    assert shared.total(COLUMNS.request_seconds) == 18  # the first bucket: up to 5 µs
