"""The command while it runs: signals, the wanted number of replicas, and the fleet's steps."""

import asyncio
import hashlib
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cartpole.integrations.ray_fleet import Fleet

STEP_SECONDS = 0.2

logger = logging.getLogger("cartpole")


class PolicyRefused(Exception):
    """The model file can't be served. The text is one line that says why."""


def read_policy(path: Path, engine: str) -> bytes:
    """The content of a model file that this engine can serve.

    Raises:
        PolicyRefused: it can't be served.
    """
    from cartpole.predictor import BadPolicy, load_engine, set_threads  # --scale needs no PyTorch

    set_threads(1)  # more would wait for each other, where other programs run
    try:
        policy = load_engine(path, engine).policy
        content = path.read_bytes()
    except (BadPolicy, OSError) as error:
        raise PolicyRefused(str(error)) from error
    if hashlib.sha256(content).hexdigest() != policy.sha256:
        raise PolicyRefused(f"model {path}: it changed while it was read")
    return content


class Command:
    """Steps a fleet until a signal stops it.

    SIGTERM and SIGINT drain all replicas, and a second one ends them at once. SIGHUP reads the
    policy again.
    """

    def __init__(self, fleet: Fleet, control: Any, read: Callable[[], bytes]) -> None:
        """Make a command that does nothing yet.

        Args:
            control: the handle of the Control actor.
            read: reads and checks the policy; raises PolicyRefused.
        """
        self._fleet, self._control, self._read = fleet, control, read
        self._is_stopping, self._is_told_to_read = asyncio.Event(), False
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Returns once the replicas have ended.

        Raises:
            RayError: this machine's node has ended.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._is_stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._request_policy)
        while not self._is_stopping.is_set():
            wanted = await self._control.report.remote(len(self._fleet.ready))
            await self._fleet.step(wanted)
            self._start_reading()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), STEP_SECONDS)
        logger.info("draining %d replicas", len(self._fleet.members))
        self._is_stopping.clear()
        await self._drain()
        logger.info("stopped")

    async def _drain(self) -> None:
        draining = asyncio.create_task(self._fleet.stop())
        told_again = asyncio.create_task(self._is_stopping.wait())
        await asyncio.wait((draining, told_again), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, told_again):
            task.cancel()
        self._fleet.kill()
        await self._fleet.publisher.last([])

    def _request_policy(self) -> None:
        self._is_told_to_read = True

    def _start_reading(self) -> None:
        if self._is_told_to_read and (self._reading is None or self._reading.done()):
            self._is_told_to_read = False
            self._reading = asyncio.create_task(self._read_policy())

    async def _read_policy(self) -> None:
        try:
            policy = await asyncio.to_thread(self._read)
        except PolicyRefused as error:
            logger.error("reload rejected, still serving the previous policy: %s", error)
            return
        self._fleet.use(policy)
        logger.info("reload: rolling out sha256 %s", hashlib.sha256(policy).hexdigest()[:12])
