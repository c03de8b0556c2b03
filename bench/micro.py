"""`make bench-micro`: what the parts of a request cost, in this process, on static input."""

import gc
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pyperf
import torch

from cartpole.observation import NAMES, parse
from cartpole.policy import load
from cartpole.reply import render
from cartpole.runner import Runner, set_threads
from cartpole.settings import BUNDLED_MODEL

QUERY = b"position=0.0123&velocity=-0.4567&angle=0.0345&angular_velocity=0.789"
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
