"""`make bench-micro`: what the parts of a request cost, in this process, on static input."""

import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pyperf
import torch
import uvicorn
from uvicorn.server import ServerState

from cartpole.app import Inference, create_app
from cartpole.fastpath import Batch, FastProtocol
from cartpole.observation import NAMES, parse
from cartpole.policy import load
from cartpole.protocol import Limits
from cartpole.reply import render
from cartpole.runner import Runner, set_threads
from cartpole.settings import BUNDLED_MODEL

QUERY = b"position=0.0123&velocity=-0.4567&angle=0.0345&angular_velocity=0.789"
REQUEST = b"GET /inference?%b HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n\r\n" % QUERY
OBSERVATION = (0.0123, -0.4567, 0.0345, 0.789)
BATCHES = (8, 64, 256)


def timed(function: Callable[..., Any], *arguments: Any) -> Callable[[int], float]:
    def run(loops: int) -> float:
        iterations = range(loops)
        started = time.perf_counter()
        for _ in iterations:
            function(*arguments)
        return time.perf_counter() - started

    return run


def close(found: tuple[float, ...], expected: list[float]) -> bool:
    pairs = zip(found, expected, strict=True)
    return all(abs(a - b) <= 1e-5 * max(map(abs, expected)) for a, b in pairs)


def freeze(module: torch.jit.ScriptModule) -> tuple[torch.jit.ScriptModule, Runner]:
    """The same policy as cart-pole-rs ships its own: two heads, frozen, without metadata."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frozen.pt"
        torch.jit.save(torch.jit.optimize_for_inference(torch.jit.freeze(module.eval())), path)
        return torch.jit.load(path), Runner(load(path))


class Sink(asyncio.Transport):
    """A client that reads everything: keeps the last answer."""

    written = b""

    def write(self, data: Any) -> None:
        self.written = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def fast_path(runner: Runner) -> Callable[[], None]:
    """One request, from its bytes to the bytes of its answer, without a socket."""
    inference = Inference(runner)
    config = uvicorn.Config(create_app(inference), lifespan="off", ws="none", log_config=None,
                            access_log=False)  # fmt: skip
    config.load()
    loop = asyncio.new_event_loop()
    batch = Batch(Limits(), None, inference)
    batch.start(loop)
    connection, transport = FastProtocol(batch, config, ServerState(), {}, loop), Sink()
    connection.connection_made(transport)
    connection.data_received(REQUEST)
    batch.flush()
    left, right = runner.one(*OBSERVATION)
    assert transport.written.endswith(render(left, right))

    def call_soon(callback: Callable[[], None]) -> None:
        """The turn of the loop ends at once."""

    batch._call_soon = call_soon  # type: ignore[assignment]

    def run() -> None:
        connection.data_received(REQUEST)
        batch.flush()

    return run


def main() -> None:
    bench = pyperf.Runner(processes=5)
    bench.metadata["description"] = "the parts of a request, in memory"
    set_threads(1)
    runner = Runner(load(BUNDLED_MODEL))
    module = torch.jit.load(BUNDLED_MODEL)

    def naive(module: torch.jit.ScriptModule = module) -> list[float]:
        logits, _ = module(torch.tensor([OBSERVATION]))
        answer: list[float] = logits.tolist()[0]
        return answer

    def naive_parse() -> tuple[float, ...]:
        values = parse_qs(QUERY.decode())
        return tuple(float(values[name][0]) for name in NAMES)

    expected = naive()
    left, right = runner.one(*OBSERVATION)
    assert close((left, right), expected)
    assert parse(QUERY) == naive_parse() == OBSERVATION
    assert render(left, right) == b'{"left":%s,"right":%s}' % (
        repr(left).encode(),
        repr(right).encode(),
    )
    frozen, frozen_runner = freeze(module)
    assert close(frozen_runner.one(*OBSERVATION), expected)
    gc.collect()
    gc.freeze()
    gc.disable()
    bench.bench_time_func("cartpole-inference", timed(runner.one, *OBSERVATION))
    bench.bench_time_func("fast-path", timed(fast_path(runner)))
    bench.bench_time_func("naive-inference", timed(naive))
    bench.bench_time_func("frozen-inference", timed(frozen_runner.one, *OBSERVATION))
    bench.bench_time_func("naive-frozen-inference", timed(naive, frozen))
    bench.bench_time_func("parse", timed(parse, QUERY))
    bench.bench_time_func("naive-parse", timed(naive_parse))
    bench.bench_time_func("render", timed(render, left, right))
    for rows in BATCHES:
        batch = [OBSERVATION] * rows
        assert all(close(row, expected) for row in runner.batch(batch))
        bench.bench_time_func(f"batch-{rows}", timed(runner.batch, batch))


if __name__ == "__main__":
    main()
