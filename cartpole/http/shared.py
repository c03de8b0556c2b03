"""The parts that all connections of a serving process share, put together."""

import asyncio
from dataclasses import dataclass, field

from cartpole.api.batches import Batches
from cartpole.api.inference import Inference
from cartpole.http.batcher import Batcher
from cartpole.http.clock import Clock
from cartpole.http.connections import Connections
from cartpole.http.direct import DirectAnswers
from cartpole.http.failures import ConnectionFailures
from cartpole.http.limits import ClientLimits
from cartpole.http.plain_headers import PlainHeaders
from cartpole.http.polling import Polling
from cartpole.http.turns import ASGI_TURN_BYTES, FAST_TURN_BYTES, Turns
from cartpole.v2.routes import batch_endpoints


@dataclass
class Shared:
    """The parts that connections work with. Make it with `share`."""

    limits: ClientLimits
    clock: Clock
    connections: Connections
    turns: Turns
    batcher: Batcher
    polling: Polling
    direct: DirectAnswers
    plain_headers: PlainHeaders = field(default_factory=PlainHeaders)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        self.polling.start(loop)
        self.turns.start(loop)
        self.connections.start(loop)


def share(limits: ClientLimits, inference: Inference, fast: bool, poll: str = "auto") -> Shared:
    """The shared parts of a process that serves this endpoint.

    Args:
        fast: connections answer GET /inference themselves; else the ASGI application does.
        poll: "auto", "always" or "never"; see polling.py.
    """
    clock, polling = Clock(), Polling(poll)
    failures = ConnectionFailures(clock)
    batcher = Batcher(inference, failures)
    turn_bytes = FAST_TURN_BYTES if fast else ASGI_TURN_BYTES
    turns = Turns(turn_bytes, batcher.flush, failures, polling)
    batcher.on_answers(turns.has_answered)
    counters = inference.predictor.counters
    connections = Connections(limits, clock, counters, batcher.flush, failures, polling)
    endpoints = batch_endpoints(Batches(inference, limits.body_bytes))
    direct = DirectAnswers(endpoints, counters)
    return Shared(limits, clock, connections, turns, batcher, polling, direct)
