"""Requests of many rows: an endpoint's way from body to answer, with forwards in slices.

A request that may take long works in steps, one such request at a time. Others are answered
between its steps.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter_ns as clock
from typing import Any, Generic, TypeVar

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
from cartpole.predictor import MAX_ROWS, OBSERVATION_BYTES, Predictor

# A body of this size takes a few milliseconds at most, from end to end (bench/protocol.py).
LIGHT_BYTES = 16 * 1024

Reply = tuple[bytes, Headers]  # the body of a 200, and all of its header lines
Answered = tuple[int, bytes, Headers]  # the same behind a status


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

    def slices(self, predictor: Predictor) -> Iterator[tuple[bytes, bytes]]:
        """The logits and values of MAX_ROWS rows at a time; see Predictor.packed."""
        return predictor.packed(self.observations, self.wants_logits, self.wants_values)

    def add_all(self, slices: Iterable[tuple[bytes, bytes]]) -> None:
        logits, values = zip(*slices, strict=True)
        self.logits, self.values = b"".join(logits), b"".join(values)

    def actions(self) -> bytearray:
        """int64[n] as bytes: 1 where the right logit is the larger one, else 0."""
        logits = torch.frombuffer(bytearray(self.logits), dtype=torch.float32).view(-1, 2)
        actions = bytearray(8 * len(logits))
        torch.frombuffer(actions, dtype=torch.int64).copy_(logits[:, 1] > logits[:, 0])
        return actions


AnyBatch = TypeVar("AnyBatch", bound=Batch)


class Batches:
    """The parts that the batch endpoints of one process share.

    Attributes:
        inference: the predictor, and the log of failing forwards.
        body_bytes: the bound on a body, before and after decompression.
        heavy: held by the one heavy request that works.
    """

    def __init__(self, inference: Inference, body_bytes: int = BODY_BYTES) -> None:
        self.inference, self.body_bytes = inference, body_bytes
        self.heavy = asyncio.Lock()


class BatchEndpoint(ABC, Generic[AnyBatch]):
    """An ASGI endpoint that answers the rows in a request's body.

    Attributes:
        route: its label in the metrics.
    """

    route: str

    def __init__(self, batches: Batches) -> None:
        self._batches, self._limit = batches, batches.body_bytes
        self._predictor = batches.inference.predictor
        self._counters = self._predictor.counters
        self._failures = batches.inference.failures

    def check_head(self, head: BodyHead) -> None:
        """Raises RequestError for a request that is rejected whatever its body is."""

    @abstractmethod
    def parse(self, head: BodyHead, body: bytes) -> AnyBatch:
        """Read a body. Raises RequestError if it is wrong."""

    @abstractmethod
    def render(self, head: BodyHead, batch: AnyBatch) -> Reply:
        """The reply to a batch that has been answered."""

    def answer(
        self, request_headers: Iterable[tuple[bytes, bytes]], body: bytes
    ) -> Answered | None:
        """Answer a whole request at once, without ASGI; None if that may take long."""
        started = clock()
        try:
            head = read_head(request_headers)
            self.check_head(head)
            if _is_heavy(head, body):
                return None
            return 200, *self._answer_light(head, body, started)
        except Exception as error:
            return self._failed(error, started)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = clock()
        try:
            head = read_head(scope["headers"])
            self.check_head(head)
            body = await receive_body(receive, self._limit)
            if _is_heavy(head, body):
                async with self._batches.heavy:
                    reply = await self._answer_heavy(head, body, started)
            else:
                reply = self._answer_light(head, body, started)
            answered: Answered = 200, *reply
        except ClientGone:
            return
        except Exception as error:
            answered = self._failed(error, started)
        await respond(scope, send, *answered)

    def _answer_light(self, head: BodyHead, body: bytes, started: int) -> Reply:
        begun = clock()
        batch = self.parse(head, body)
        parsed = clock()
        batch.add_all(batch.slices(self._predictor))
        computed = clock()
        reply = self.render(head, batch)
        ended = clock()
        times = BatchTimes(ended - started, parsed - begun, computed - parsed, ended - computed)
        self._record(batch, times)
        return reply

    async def _answer_heavy(self, head: BodyHead, body: bytes, started: int) -> Reply:
        """The same in steps, between which the event loop does other work."""
        begun = clock()
        batch = self.parse(head, decompress(body, head.coding, self._limit))
        parse_time, forward_time = clock() - begun, 0
        slices, found = batch.slices(self._predictor), []
        for _ in range(0, len(batch), MAX_ROWS):
            await asyncio.sleep(0)
            begun = clock()
            found.append(next(slices))
            forward_time += clock() - begun
        batch.add_all(found)
        await asyncio.sleep(0)
        begun = clock()
        reply = self.render(head, batch)
        ended = clock()
        self._record(batch, BatchTimes(ended - started, parse_time, forward_time, ended - begun))
        return reply

    def _record(self, batch: AnyBatch, times: BatchTimes) -> None:
        if self._failures.is_ongoing:
            self._failures.recover()
        self._counters.record_batch(self.route, len(batch), times)

    def _failed(self, error: Exception, started: int) -> Answered:
        self._counters.record_failed_batch(self.route, clock() - started)
        if isinstance(error, RequestError):
            body = render_error(str(error))
            return error.status, body, headers(len(body)) + error.lines
        self._failures.record(error)
        status, body = INTERNAL_ERROR
        return status, body, headers(len(body))


Endpoints = Mapping[str, BatchEndpoint[Any]]  # by path


def _is_heavy(head: BodyHead, body: bytes) -> bool:
    return bool(head.coding) or len(body) > LIGHT_BYTES
