"""What is fuzzed: each target takes any bytes and raises where something is wrong."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from urllib.parse import parse_qsl

from cartpole.app import Inference
from cartpole.observation import NAMES, BadObservation, parse
from cartpole.policy import BadPolicy, load
from cartpole.runner import Runner
from cartpole.settings import BUNDLED_MODEL
from tests.test_fastpath import both
from tools.agent import BadAgent, read_agent


def query(data: bytes) -> None:
    """The parser, held against the standard library's reading of the same query string."""
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
    return Inference(Runner(load(BUNDLED_MODEL)))


def connection(data: bytes) -> None:
    """Any bytes, split anywhere, to the fast path and to ASGI: both must answer the same."""
    if not data:
        return
    cuts, stream = data[0] % 8, data[1:]
    size = max(1, len(stream) // (cuts + 1))
    parts = [stream[start : start + size] for start in range(0, len(stream), size)]
    both(inference(), parts, eof=bool(data[0] & 128))


def model(data: bytes) -> None:
    """The loader: a policy or BadPolicy, whatever the file holds."""
    _read(load, BadPolicy, data)


def agent(data: bytes) -> None:
    """The reader of Stable-Baselines3's zips."""
    _read(read_agent, BadAgent, data)


def _read(read: Callable[[Path], object], refusal: type[Exception], data: bytes) -> None:
    """A file of these bytes is read, or refused in one line."""
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
