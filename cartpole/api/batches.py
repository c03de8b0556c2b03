"""Requests of many rows: an endpoint's way from body to answer, with forwards in slices.

A request that may take long works in steps, one such request at a time. Others are answered
between its steps.
"""

import asyncio
from abc import ABC, abstractmethod
from dataclasses import dataclass
from time import perf_counter_ns as clock
from typing import Generic, TypeVar

import torch
from starlette.types import Receive, Scope, Send

from cartpole.api.inference import Inference
from cartpole.api.request_bodies import (
    BODY_BYTES,
    BodyHead,
    ClientGone,
    RequestError,
    decompress,
    read_head,
    receive_body,
)
from cartpole.api.responses import INTERNAL_ERROR, Headers, headers, render_error, respond
from cartpole.metrics.counters import BatchTimes
from cartpole.predictor import MAX_ROWS, OBSERVATION_BYTES

# A body of this size takes less than a millisecond from end to end (bench/protocol.py).
LIGHT_BYTES = 16 * 1024

Reply = tuple[bytes, Headers]  # the body of a 200, and all of its header lines


@dataclass
class Batch:
    """The rows of a request, and the outputs that it asks for.

    Attributes:
        observations: float32[n, 4] as bytes, finite, 1 to MAX_BATCH rows.
        wants_logits, wants_values: the heads to compute.
        logits: float32[n, 2] as bytes, once it is answered.
        values: float32[n, 1] as bytes, once it is answered.
    """

    observations: memoryview
    wants_logits: bool = True
    wants_values: bool = False
    logits: bytes = b""
    values: bytes = b""

    def __len__(self) -> int:
        return len(self.observations) // OBSERVATION_BYTES

    def actions(self) -> bytearray:
        """int64[n] as bytes: 1 where the right logit is the larger one, else 0."""
        logits = torch.frombuffer(bytearray(self.logits), dtype=torch.float32).view(-1, 2)
        actions = bytearray(8 * len(logits))
        torch.frombuffer(actions, dtype=torch.int64).copy_(logits[:, 1] > logits[:, 0])
        return actions


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Batches:
    """What the endpoints of one process share.

    Attributes:
        inference: the predictor, and the log of failing forwards.
        body_bytes: the bound on a body, before and after decompression.
        heavy: held by the one heavy request that works.
    """

    def __init__(self, inference: Inference, body_bytes: int = BODY_BYTES) -> None:
        self.inference, self.body_bytes = inference, body_bytes
        self.heavy = asyncio.Lock()

    async def run(self, batch: Batch, is_heavy: bool) -> int:
        """Answer a batch. Others work before each slice, but not before a light request's first.

        Returns:
            The nanoseconds of its forwards.

        Raises:
            Exception: whatever the policy's forward raises.
        """
        predictor, nanoseconds = self.inference.predictor, 0
        slices = predictor.packed(batch.observations, batch.wants_logits, batch.wants_values)
        logits, values = [], []
        for start in range(0, len(batch), MAX_ROWS):
            if is_heavy or start:
                await asyncio.sleep(0)
            started = clock()
            some_logits, some_values = next(slices)
            nanoseconds += clock() - started
            logits.append(some_logits)
            values.append(some_values)
        batch.logits, batch.values = b"".join(logits), b"".join(values)
        if is_heavy:
            await asyncio.sleep(0)
        return nanoseconds


class BatchEndpoint(ABC, Generic[AnyBatch]):
    """An ASGI endpoint that answers the rows in a request's body.

    Attributes:
        route: its label in the metrics.
    """

    route: str

    def __init__(self, batches: Batches) -> None:
        self._batches, self._limit = batches, batches.body_bytes
        self._counters = batches.inference.predictor.counters
        self._failures = batches.inference.failures

    def check_head(self, head: BodyHead) -> None:
        """Raises RequestError for a request that is rejected whatever its body is."""

    @abstractmethod
    def parse(self, head: BodyHead, body: bytes) -> AnyBatch:
        """Read a body. Raises RequestError if it is wrong."""

    @abstractmethod
    def render(self, head: BodyHead, batch: AnyBatch) -> Reply:
        """The reply to a batch that has been answered."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = clock()
        try:
            body, lines = await self._reply(scope, receive, started)
            return await respond(scope, send, 200, body, lines)
        except ClientGone:
            return
        except RequestError as error:
            status, body = error.status, render_error(str(error))
            lines = headers(len(body)) + error.lines
        except Exception as error:
            self._failures.record(error)
            status, body = INTERNAL_ERROR
            lines = headers(len(body))
        self._counters.record_failed_batch(self.route, clock() - started)
        await respond(scope, send, status, body, lines)

    async def _reply(self, scope: Scope, receive: Receive, started: int) -> Reply:
        head = read_head(scope["headers"])
        self.check_head(head)
        body = await receive_body(receive, self._limit)
        if not head.coding and len(body) <= LIGHT_BYTES:
            return await self._work(head, body, started, is_heavy=False)
        async with self._batches.heavy:
            return await self._work(head, body, started, is_heavy=True)

    async def _work(self, head: BodyHead, body: bytes, started: int, is_heavy: bool) -> Reply:
        begun = clock()
        batch = self.parse(head, decompress(body, head.coding, self._limit))
        parsed = clock()
        forwards = await self._batches.run(batch, is_heavy)
        computed = clock()
        reply = self.render(head, batch)
        ended = clock()
        if self._failures.is_ongoing:
            self._failures.recover()
        times = BatchTimes(ended - started, parsed - begun, forwards, ended - computed)
        self._counters.record_batch(self.route, len(batch), times)
        return reply
