"""`make bench-micro`: the cost of each part of a request, in this process, on fixed input."""

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import httptools
import pyperf
import torch
from uvicorn.server import ServerState

from cartpole.api.inference import Inference
from cartpole.api.observation import NAMES, parse
from cartpole.api.responses import render
from cartpole.app import create_app
from cartpole.http.connection import Connection
from cartpole.http.known_heads import KnownHeads
from cartpole.http.limits import ClientLimits
from cartpole.http.responses import KEPT
from cartpole.http.shared import Shared
from cartpole.policy.contract import Engine, Logits
from cartpole.policy.engine import make_engine, set_threads
from cartpole.policy.loading import load
from cartpole.policy.tolerance import logits_close
from cartpole.predictor import Predictor
from cartpole.settings import BUNDLED_MODEL

QUERY = b"position=0.0123&velocity=-0.4567&angle=0.0345&angular_velocity=0.789"
REQUEST = b"GET /inference?%b HTTP/1.1\r\nHost: 127.0.0.1:3000\r\n\r\n" % QUERY
OBSERVATION = (0.0123, -0.4567, 0.0345, 0.789)
BATCHES = (2, 8, 64, 256)
BLOCKS = {
    "small-head": b"Host: 127.0.0.1:3000\r\n\r\n",
    "browser-head": b"Host: 127.0.0.1:3000\r\nConnection: keep-alive\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    b"Chrome/142.0.0.0 Safari/537.36\r\nAccept: application/json, text/plain, */*\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n\r\n",
}


def timed(prepare: Callable[[], Callable[[], Any]]) -> Callable[[int], float]:
    """A benchmark that is prepared in the process that runs it: pyperf starts one for each."""

    def run(loops: int) -> float:
        function = prepare()
        gc.collect()
        gc.freeze()
        iterations = range(loops)
        started = time.perf_counter()
        for _ in iterations:
            function()
        return time.perf_counter() - started

    return run


def close(found: tuple[float, ...], expected: list[float]) -> bool:
    return logits_close(torch.tensor(found), torch.tensor(expected))


class NoHeaders:
    """Lets llhttp check a request without a callback for its headers."""

    def on_url(self, url: bytes) -> None: ...

    def on_message_complete(self) -> None: ...


def check_by_comparison(block: bytes) -> Callable[[], Any]:
    """Whether a request has the header block of the previous one."""
    end = b" HTTP/1.1\r\n" + block
    request = b"GET /inference?" + QUERY + end
    return lambda: request.endswith(end) and request.startswith(b"GET /inference?")


def check_changed(block: bytes) -> Callable[[], Any]:
    """The same for a request with another value in one header."""
    start = b"GET /inference?" + QUERY
    first, second, third = (
        start + b" HTTP/1.1\r\ntraceparent: 00-%032d-01\r\n" % number + block for number in range(3)
    )
    heads = KnownHeads()
    heads.learn(first, KEPT)
    assert heads.find(second) == heads.find(third) == (len(start), KEPT)
    return partial(heads.find, third)


def check_by_llhttp(block: bytes) -> Callable[[], Any]:
    parser = httptools.HttpRequestParser(NoHeaders())
    return partial(parser.feed_data, b"GET /inference?%b HTTP/1.1\r\n%b" % (QUERY, block))


class Sink(asyncio.Transport):
    """A client that reads everything. It keeps the last answer."""

    written = b""

    def write(self, data: Any) -> None:
        self.written = data

    def is_closing(self) -> bool:
        return False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


def fast_path(engine: Engine) -> Callable[[], Any]:
    """One request, from its bytes to the bytes of its answer, without a socket."""
    inference = Inference(Predictor(engine))
    loop = asyncio.new_event_loop()
    shared = Shared(ClientLimits(), inference, create_app(inference), {}, is_fast=True)
    shared.start(loop, ServerState())
    turns = shared.turns
    connection, transport = Connection(shared), Sink()
    connection.connection_made(transport)
    connection.data_received(REQUEST)
    turns.end()
    left, right = engine.one(*OBSERVATION)
    assert transport.written.endswith(render(left, right))

    def call_soon(callback: Callable[[], None]) -> None:
        """`run` ends the turn itself, and nothing is polled."""

    turns._call_soon = shared.polling._call_soon = call_soon  # type: ignore[assignment]
    loop.close()

    def run() -> None:
        connection.data_received(REQUEST)
        turns.end()

    return run


@cache
def module() -> Any:
    return torch.jit.load(BUNDLED_MODEL)


@cache
def frozen() -> tuple[Any, Engine]:
    """The same policy as cart-pole-rs ships its own: two heads, frozen, without metadata."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frozen.pt"
        torch.jit.save(torch.jit.optimize_for_inference(torch.jit.freeze(module().eval())), path)
        return torch.jit.load(path), make_engine(load(path))


@cache
def bundled(engine: str = "torchscript") -> Engine:
    return make_engine(load(BUNDLED_MODEL), engine)


class Constant:
    """An engine that computes nothing."""

    name = "constant"

    def __init__(self, engine: Engine) -> None:
        self.policy, self.batch, self.packed = engine.policy, engine.batch, engine.packed
        self._logits, self.packed_values = engine.one(*OBSERVATION), engine.packed_values

    def one(
        self, position: float, velocity: float, angle: float, angular_velocity: float, /
    ) -> Logits:
        return self._logits


def infer(engine: Engine) -> Callable[[], Any]:
    assert close(engine.one(*OBSERVATION), naive(module()))
    return partial(engine.one, *OBSERVATION)


def infer_together(engine: str, rows: int) -> Callable[[], Any]:
    batch = [OBSERVATION] * rows
    assert all(close(row, naive(module())) for row in bundled(engine).batch(batch))
    return partial(bundled(engine).batch, batch)


def naive(module: Any) -> list[float]:
    logits, _ = module(torch.tensor([OBSERVATION]))
    answer: list[float] = logits.tolist()[0]
    return answer


def naive_parse() -> tuple[float, ...]:
    values = parse_qs(QUERY.decode())
    return tuple(float(values[name][0]) for name in NAMES)


def parsing() -> Callable[[], Any]:
    assert parse(QUERY) == naive_parse() == OBSERVATION
    return partial(parse, QUERY)


def rendering() -> Callable[[], Any]:
    assert render(1.25, -2.5) == b'{"left":1.25,"right":-2.5}'
    return partial(render, *bundled().one(*OBSERVATION))


CASES: dict[str, Callable[[], Callable[[], Any]]] = {
    "cartpole-inference": lambda: infer(bundled()),
    "native-inference": lambda: infer(bundled("native")),
    "naive-inference": lambda: partial(naive, module()),
    "frozen-inference": lambda: infer(frozen()[1]),
    "naive-frozen-inference": lambda: partial(naive, frozen()[0]),
    "fast-path": lambda: fast_path(bundled()),
    "fast-path-native": lambda: fast_path(bundled("native")),
    "fast-path-without-forward": lambda: fast_path(Constant(bundled())),
    "parse": parsing,
    "naive-parse": lambda: naive_parse,
    "render": rendering,
}
for name, block in BLOCKS.items():
    CASES[f"{name}-compared"] = partial(check_by_comparison, block)
    CASES[f"{name}-changed"] = partial(check_changed, block)
    CASES[f"{name}-llhttp"] = partial(check_by_llhttp, block)
for rows in BATCHES:
    CASES[f"batch-{rows}"] = partial(infer_together, "torchscript", rows)
    CASES[f"native-batch-{rows}"] = partial(infer_together, "native", rows)


def add_only(command: list[str], arguments: argparse.Namespace) -> None:
    """Pass the selection on to pyperf's worker processes."""
    for name in arguments.only or ():
        command += ["--only", name]


def main() -> None:
    bench = pyperf.Runner(processes=5, add_cmdline_args=add_only)
    bench.metadata["description"] = "the parts of a request, in memory"
    bench.argparser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    only = bench.parse_args().only or CASES
    set_threads(1)
    gc.disable()
    for name in only:
        bench.bench_time_func(name, timed(cache(CASES[name])))


if __name__ == "__main__":
    main()
