"""The command while it runs: signals, the wanted number of replicas, and the fleet's steps."""

import asyncio
import hashlib
import logging
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray._private import worker
from ray.exceptions import ActorUnavailableError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cartpole.integrations.ray_fleet import Fleet
from cartpole.process.reloading import Reloader

NAMESPACE = NAME = "cartpole"  # of the Control actor
CLAIM_SECONDS = 15  # for Ray to free the name of a Control actor that has ended
STEP_SECONDS = 0.2

logger = logging.getLogger("cartpole")


class PolicyRefused(Exception):
    """The model file can't be served. The text is one line that says why."""


def read_policy(path: Path, engine: str) -> bytes:
    """The content of a model file that this engine can serve.

    Raises:
        PolicyRefused: it can't be served.
    """
    from cartpole.predictor import (  # --scale needs no PyTorch
        BadPolicy,
        load_engine,
        read_file,
        set_threads,
    )

    set_threads(1)  # more would wait for each other, where other programs run
    try:
        content = read_file(path)
        load_engine(path, engine, content)
    except BadPolicy as error:
        raise PolicyRefused(str(error)) from error
    return content


class Control:
    """The actor through which `--scale` reaches the command: how many are wanted, and ready."""

    def __init__(self, wanted: int) -> None:
        self._wanted, self._ready = wanted, 0

    def scale(self, wanted: int) -> None:
        """Want this number from now on."""
        self._wanted = wanted

    def report(self, ready: int) -> int:
        """Note how many are ready. Returns how many are wanted."""
        self._ready = ready
        return self._wanted

    def state(self) -> tuple[int, int]:
        """How many are wanted, and how many were ready when the command last looked."""
        return self._wanted, self._ready


def make_control(wanted: int) -> Any:
    """Make the Control actor, on this command's own node: it ends with the command.

    Raises:
        ValueError: there is one, of another command or of one that has just ended.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    options = {"name": NAME, "namespace": NAMESPACE, "num_cpus": 0, "scheduling_strategy": here}
    return ray.remote(Control).options(**options).remote(wanted)


def _check_node() -> None:
    """Raises RayError if Ray has ended on this machine. Its own calls may take a minute then."""
    if worker._global_node.raylet_socket_name not in Path("/proc/net/unix").read_text():
        raise RayError("its node on this machine has ended")


class Command:
    """Steps a fleet until a signal stops it.

    SIGTERM and SIGINT drain all replicas, and a second one ends them at once. SIGHUP reads the
    policy again.
    """

    def __init__(self, fleet: Fleet, wanted: int, control: Any, read: Callable[[], bytes]) -> None:
        """Make a command that does nothing yet.

        Args:
            control: the handle of the Control actor, which wants that many as well.
            read: reads and checks the policy; raises PolicyRefused.
        """
        self._fleet, self._wanted, self._control = fleet, wanted, control
        self._reloader = Reloader(read, self._use)
        self._is_stopping = asyncio.Event()

    async def run(self) -> None:
        """Returns once the replicas have ended.

        Raises:
            RayError: this machine's node has ended.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._is_stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.request)
        following = asyncio.create_task(self._follow_control())
        while not self._is_stopping.is_set():
            _check_node()
            self._fleet.step(self._wanted)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_stopping.wait(), STEP_SECONDS)
            if following.done():
                following.result()
        following.cancel()
        logger.info("draining %d replicas", len(self._fleet.members))
        self._is_stopping.clear()
        await self._drain()
        logger.info("stopped")

    async def _follow_control(self) -> None:
        """Learn from the Control actor how many replicas are wanted; make it again if it is lost.

        If another command has taken its name meanwhile, this one stops.
        """
        refusals = 0
        while refusals * STEP_SECONDS < CLAIM_SECONDS:
            try:
                self._wanted = await self._control.report.remote(len(self._fleet.ready))
                refusals = 0
            except ActorUnavailableError:
                pass  # it may answer again
            except RayActorError:
                _check_node()
                ray.kill(self._control)  # or this process would keep its name taken
                try:
                    self._control = make_control(self._wanted)
                    logger.error("the control actor was lost, and is made again")
                except ValueError:
                    refusals += 1
            await asyncio.sleep(STEP_SECONDS)
        logger.error("another cartpole has taken over this cluster")
        self._is_stopping.set()

    async def _drain(self) -> None:
        draining = asyncio.create_task(self._fleet.stop())
        told_again = asyncio.create_task(self._is_stopping.wait())
        await asyncio.wait((draining, told_again), return_when=asyncio.FIRST_COMPLETED)
        for task in (draining, told_again):
            task.cancel()
        self._fleet.kill()
        await self._fleet.publisher.last([])

    def _use(self, policy: bytes) -> None:
        self._fleet.use(policy)
        logger.info("reload: rolling out sha256 %s", hashlib.sha256(policy).hexdigest()[:12])
