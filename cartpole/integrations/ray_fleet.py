"""Keeps N replicas on a Ray cluster: places and replaces them, and rolls out policies."""

import asyncio
import hashlib
import logging
import ssl
from collections import Counter
from collections.abc import Coroutine
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cartpole.integrations import probe
from cartpole.integrations.endpoints import Publisher
from cartpole.integrations.ray_member import Member
from cartpole.integrations.ray_replica import Replica

PUBLISH_SECONDS = 15  # for others to be told that a replica leaves; then it drains nevertheless
ANSWER_SECONDS = 10  # for an actor to say that its child has ended
UPDATE_SECONDS = 60  # for a replica to serve a new policy
BACKOFF_SECONDS = 2  # before the next start, if one has failed
PAUSE_SECONDS = 0.05

logger = logging.getLogger("cartpole")


class Fleet:
    """The replicas.

    Attributes:
        members: all of them, the starting and the retiring ones too.
        publisher: tells others where they answer.
    """

    def __init__(
        self,
        port: int,
        flags: tuple[str, ...],
        drain_seconds: float,
        publisher: Publisher,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """Make a fleet without replicas.

        Args:
            port: the first port that a replica may take.
            flags: of cartpole.serve.
            drain_seconds: how long a replica may take to drain.
            tls: the context to ask replicas with, if they serve HTTPS.
        """
        self.members: list[Member] = []
        self.publisher = publisher
        self._port, self._flags, self._tls = port, flags, tls
        self._drain_seconds = drain_seconds
        self._tasks: set[asyncio.Task[None]] = set()
        self._policy: tuple[Any, str] = (None, "")  # its object in Ray's store, and its SHA-256
        self._previous: tuple[Any, str] | None = None  # while a new policy is being rolled out
        self._is_updating, self._start_at = False, 0.0

    def use(self, policy: bytes) -> None:
        """Serve this policy from now on. Replicas take it one after the other, in later steps."""
        self._previous = self._policy if self._policy[1] else None
        self._policy = ray.put(policy), hashlib.sha256(policy).hexdigest()

    @property
    def ready(self) -> list[str]:
        """The endpoints that clients may use."""
        return [member.endpoint for member in self._staying if member.is_ready]

    @property
    def _staying(self) -> list[Member]:
        return [member for member in self.members if not member.is_retiring]

    async def step(self, wanted: int) -> None:
        """Do all that is due for this number of replicas, without waiting for any of them."""
        missing = wanted - len(self._staying)
        if asyncio.get_running_loop().time() >= self._start_at:
            for _ in range(missing):
                self._start()
        for _ in range(-missing):
            self._retire(self._most_crowded())
        self._update_next()
        self.publisher.publish(self.ready)

    async def stop(self) -> None:
        """Drain all replicas at once, and wait for their end."""
        for member in self._staying:
            self._retire(member)
        while self.members:
            self.publisher.publish(self.ready)
            await asyncio.sleep(PAUSE_SECONDS)

    def kill(self) -> None:
        """End all replicas. Their children end with them."""
        for member in self.members:
            ray.kill(member.actor)

    # Where they are

    def _start(self) -> None:
        node, place = self._least_crowded(), None
        if node:
            # Soft, and with spilling: if that node ends or has no CPU left, Ray takes another one.
            place = NodeAffinitySchedulingStrategy(node, soft=True, _spill_on_unavailable=True)
        actor = ray.remote(Replica).options(num_cpus=1, scheduling_strategy=place).remote()
        member = Member(actor, node, self._policy[1])
        self.members.append(member)
        self._run(self._keep(member, self._policy[0]))

    def _least_crowded(self) -> str:
        """The live node with the fewest replicas and a CPU left; empty if there is none.

        Without a node, Ray's autoscaler sees that a CPU is wanted. It ignores an actor with one.
        """
        free = available_resources_per_node()
        number = self._number_by_node()
        nodes = [
            node["NodeID"]
            for node in ray.nodes()
            if node["Alive"]
            and free.get(node["NodeID"], {}).get("CPU", 0) >= 1
            and node["Resources"].get("CPU", 0) > number[node["NodeID"]]
        ]
        return str(min(nodes, key=lambda node: number[node], default=""))

    def _most_crowded(self) -> Member:
        """Which to retire: one that is not ready, or else the latest on the fullest node."""
        number = self._number_by_node()
        return max(reversed(self._staying), key=lambda m: (not m.is_ready, number[m.node]))

    def _number_by_node(self) -> Counter[str]:
        return Counter(member.node for member in self._staying)

    # How they end

    async def _keep(self, member: Member, policy: Any) -> None:
        """Start a replica and watch it; remove it once it must be replaced."""
        try:
            reason = await member.live(self._port, policy, self._flags, self._tls)
        except RayError as error:
            reason = f"is lost: {_text(error)}"
        member.is_ready = False
        if not member.is_retiring:
            logger.error("%s %s", member.endpoint, reason)
            if not member.has_been_ready:
                self._start_at = asyncio.get_running_loop().time() + BACKOFF_SECONDS
            self._remove(member)

    def _retire(self, member: Member) -> None:
        member.is_retiring = True
        self._run(self._drain(member))

    async def _drain(self, member: Member) -> None:
        """End a replica gently, once others have been told that it leaves."""
        if not member.address:
            return self._remove(member)  # it waits for a CPU, or has only just got one
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                while member.endpoint in (self.publisher.published or ()):
                    await asyncio.sleep(PAUSE_SECONDS)
        except TimeoutError:
            logger.error("%s drains, and others have not been told", member.endpoint)
        try:
            async with asyncio.timeout(self._drain_seconds + ANSWER_SECONDS):
                await member.actor.stop.remote(self._drain_seconds)
        except (RayError, TimeoutError) as error:
            logger.error("%s did not drain: %s", member.endpoint, _text(error))
        self._remove(member)

    def _remove(self, member: Member) -> None:
        self.members.remove(member)
        ray.kill(member.actor)

    def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)  # asyncio itself keeps no reference
        task.add_done_callback(self._tasks.discard)

    # A new policy

    def _update_next(self) -> None:
        old = [member for member in self._staying if member.sha256 != self._policy[1]]
        if not old:
            self._previous = None
        for member in old:
            if member.is_ready and not self._is_updating:
                self._is_updating = True
                self._run(self._update(member, *self._policy))

    async def _update(self, member: Member, policy: Any, sha256: str) -> None:
        """Have a replica take the policy in place, and wait until it answers with it."""
        assert member.address
        try:
            async with asyncio.timeout(UPDATE_SECONDS):
                await member.actor.use.remote(policy)
                while await probe.policy_sha256(*member.address, self._tls) != sha256:
                    await asyncio.sleep(PAUSE_SECONDS)
            member.sha256 = sha256
            logger.info("%s serves the policy with sha256 %s", member.endpoint, sha256[:12])
        except TimeoutError:
            self._roll_back(member, sha256)
        except RayError as error:  # it is being replaced
            logger.error("%s did not take the policy: %s", member.endpoint, _text(error))
        finally:
            self._is_updating = False

    def _roll_back(self, member: Member, sha256: str) -> None:
        """A node can't serve what was checked here. The replicas that have it give it up again."""
        logger.error("%s does not serve the policy with sha256 %s", member.endpoint, sha256[:12])
        member.sha256 = ""  # it may serve either
        if self._policy[1] == sha256 and self._previous:
            self._policy, self._previous = self._previous, None
            logger.error("rolling back to the previous policy")
        elif member in self._staying:
            self._retire(member)


def _text(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]
