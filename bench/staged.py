"""`python -m bench.staged FILE [flags]`: the service with clocks around its stages.

On exit it writes to FILE the mean microseconds per request of each stage.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.stages import WAIT
from cartpole import serve
from cartpole.api.inference import Inference
from cartpole.http.batcher import Batcher
from cartpole.http.connection import Connection
from cartpole.predictor import Predictor

clock = time.perf_counter_ns
spent: dict[str, int] = {}
within = 0  # nanoseconds that other stages took within the running one
requests = 0
arrived: list[int] = []


def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as a stage: its time counts without that of the stages it calls."""

    def run(*arguments: Any) -> Any:
        global within
        before, within = within, 0
        started = clock()
        try:
            return function(*arguments)
        finally:
            took = clock() - started
            spent[name] = spent.get(name, 0) + took - within
            within = before + took

    return run


def clock_waiting() -> None:
    """Measure the wall time from adding a request to a batch until the batch is flushed."""
    add, flush = Batcher.add, Batcher.flush

    def add_and_note(self: Batcher, *arguments: Any) -> None:
        arrived.append(clock())
        add(self, *arguments)

    def note_and_flush(self: Batcher) -> None:
        now = clock()
        spent[WAIT] = spent.get(WAIT, 0) + len(arrived) * now - sum(arrived)
        arrived.clear()
        flush(self)

    Batcher.add = add_and_note  # type: ignore[assignment, method-assign]
    Batcher.flush = note_and_flush  # type: ignore[method-assign]


def stages() -> dict[str, float]:
    """Mean microseconds per request of each stage, and of the wait for the batch."""
    return {name: nanoseconds / requests / 1000 for name, nanoseconds in spent.items()}


def main() -> None:
    path, flags = Path(sys.argv[1]), sys.argv[2:]
    Connection.data_received = timed(  # type: ignore[method-assign]
        "read and parse", Connection.data_received
    )
    Batcher.flush = timed("write", Batcher.flush)  # type: ignore[method-assign]
    clock_waiting()
    answer_all = timed("render", Inference.answer_all)

    def counted(self: Inference, queries: Any) -> Any:
        global requests
        requests += len(queries)
        return answer_all(self, queries)

    Inference.answer_all = counted  # type: ignore[method-assign]
    use = Predictor.use

    def with_clocks(self: Predictor, engine: Any) -> None:
        engine.one, engine.batch = timed("forward", engine.one), timed("forward", engine.batch)
        use(self, engine)

    Predictor.use = with_clocks  # type: ignore[method-assign]
    try:
        sys.argv[1:] = flags
        serve.main()
    finally:  # serve.main() raises SystemExit
        if requests:  # else it did not start, and has said why
            path.write_text(json.dumps(stages()))


if __name__ == "__main__":
    main()
