"""Fuzz targets. Each takes arbitrary bytes and raises if the service behaves wrongly."""

import asyncio
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl

from cartpole.api.inference import Inference
from cartpole.api.observation import NAMES, BadObservation, parse
from cartpole.policy.engine import make_engine
from cartpole.policy.loading import BadPolicy, load
from cartpole.predictor import Predictor
from cartpole.settings import BUNDLED_MODEL
from tests.support.conditions import Conditions, compare
from tests.support.memory import both
from tools.agent import BadAgent, read_agent


def query(data: bytes) -> None:
    """Compare the parser with urllib.parse on the same query string."""
    try:
        found = parse(data)
    except BadObservation as error:
        assert str(error)
        return
    pairs = parse_qsl(data.decode("latin-1"), keep_blank_values=True, max_num_fields=None)
    values = {name: float(value) for name, value in pairs if name in NAMES}
    assert found == tuple(values[name] for name in NAMES)


@cache
def inference() -> Inference:
    return Inference(Predictor(make_engine(load(BUNDLED_MODEL))))


def connection(data: bytes) -> None:
    """Send arbitrary bytes, split anywhere, to both modes, which must answer the same.

    The first byte: into how many parts (its low bits), whether the client half-closes (128), and
    whether all is tried once more under TLS (8), in turns so short that requests wait (16), with
    seconds that pass between the parts (32), past the limit on connections (64).
    """
    if not data:
        return
    options, stream = data[0], data[1:]
    size = max(1, len(stream) // (options % 8 + 1))
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    eof = bool(options & 128)
    both(inference(), parts, eof=eof)
    if options & 0b1111000:
        conditions = Conditions(
            tls=bool(options & 8),
            turn_bytes=64 if options & 16 else None,
            seconds=3 if options & 32 else 0,
            past_limit=bool(options & 64),
        )
        asyncio.run(compare(inference(), conditions, parts, eof))


def model(data: bytes) -> None:
    """The loader returns a policy or raises BadPolicy for any file."""
    _read(load, BadPolicy, data)


def agent(data: bytes) -> None:
    """The reader of Stable-Baselines3 zips returns an agent or raises BadAgent."""
    _read(read_agent, BadAgent, data)


def _read(read: Callable[[Path], object], refusal: type[Exception], data: bytes) -> None:
    """Read a file of these bytes; an error has one line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "file"
        path.write_bytes(data)
        try:
            read(path)
        except refusal as error:
            assert "\n" not in str(error)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "query": query,
    "connection": connection,
    "model": model,
    "agent": agent,
}
