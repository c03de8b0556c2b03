"""Keeps N replicas on a Ray cluster: places, watches and replaces them, and rolls out policies."""

import asyncio
import hashlib
import logging
import ssl
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import ray
from ray._private.state import available_resources_per_node
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as NodeAffinity

from cartpole.integrations import probe
from cartpole.integrations.endpoints import Publisher, join
from cartpole.integrations.ray_replica import Replica

PROBE_SECONDS = 0.2  # between two questions over HTTP
ACTOR_SECONDS = 1  # between two questions to the actor
SILENT_SECONDS = 30  # a replica that is not ready for longer is replaced
START_SECONDS = 120  # the same before it was ready once: an engine may have to compile
PUBLISH_SECONDS = 15  # for others to be told that a replica leaves; then it drains nevertheless
ANSWER_SECONDS = 10  # for an actor to say that its child has ended
UPDATE_SECONDS = 60  # for a replica to serve a new policy
BACKOFF_SECONDS = 2  # before the next start, if one has failed
PAUSE_SECONDS = 0.05

logger = logging.getLogger("cartpole")


@dataclass(eq=False)
class Member:
    """A replica as the command sees it."""

    actor: Any  # the handle of its Replica
    node: str  # the id of its node: where it was sent, if anywhere, and later where it is
    sha256: str  # of the policy that it serves, or will
    address: tuple[str, int] | None = None  # host and port, once it has started
    is_ready: bool = False  # as it said when it was last asked
    has_been_ready: bool = False
    is_retiring: bool = False  # it is to get no more requests, and to end

    @property
    def endpoint(self) -> str:
        return join(*self.address) if self.address else "a replica that was starting"

    async def watch(self, address: tuple[str, int], tls: ssl.SSLContext | None) -> str:
        """Ask for its state until it must be replaced. Returns the reason.

        Raises:
            RayError: the actor or its node has ended.
        """
        self.address = address
        watching = [asyncio.create_task(one) for one in (self._ask_actor(), self._ask_http(tls))]
        try:
            done, _ = await asyncio.wait(watching, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for task in watching:
                task.cancel()

    async def _ask_actor(self) -> str:
        while (code := await self.actor.exit_code.remote()) is None:
            await asyncio.sleep(ACTOR_SECONDS)
        return f"ended with exit code {code}"

    async def _ask_http(self, tls: ssl.SSLContext | None) -> str:
        assert self.address
        clock = asyncio.get_running_loop().time
        last_ready, patience = clock(), START_SECONDS
        while clock() <= last_ready + patience or self.is_retiring:
            self.is_ready = await probe.is_ready(*self.address, tls)
            if self.is_ready:
                self.has_been_ready = True
                last_ready, patience = clock(), SILENT_SECONDS
            await asyncio.sleep(PROBE_SECONDS)
        return f"was not ready for {patience} s"


@dataclass(eq=False)
class Fleet:
    """The replicas."""

    port: int  # the first one that a replica may take
    flags: tuple[str, ...]  # of cartpole.serve
    drain_seconds: float  # that a replica may take to drain
    publisher: Publisher  # tells others where replicas answer
    tls: ssl.SSLContext | None = None  # to ask replicas with, if they serve HTTPS
    members: list[Member] = field(default_factory=list)  # the starting and the retiring ones too
    _policy: tuple[Any, str] = (None, "")  # its object in Ray's store, and its SHA-256
    _previous: tuple[Any, str] | None = None  # while a new policy is being rolled out
    _is_updating: bool = False
    _start_at: float = 0.0
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)

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

    def step(self, wanted: int) -> None:
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

    def _start(self) -> None:
        node = self._least_crowded()
        # Soft, and with spilling: if that node ends or has no CPU left, Ray takes another one.
        place = NodeAffinity(node, soft=True, _spill_on_unavailable=True) if node else None
        actor = ray.remote(Replica).options(num_cpus=1, scheduling_strategy=place).remote()
        self.members.append(Member(actor, node, self._policy[1]))
        self._run(self._keep(self.members[-1], self._policy[0]))

    def _least_crowded(self) -> str:
        """The live node with the fewest replicas and a CPU left; empty if there is none.

        Without a node, Ray's autoscaler sees that a CPU is wanted. It ignores an actor with one.
        """
        free, number = available_resources_per_node(), self._number_by_node()
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

    async def _keep(self, member: Member, policy: Any) -> None:
        """Start a replica and watch it; remove it once it must be replaced."""
        try:
            host, port, member.node = await member.actor.start.remote(self.port, policy, self.flags)
            reason = await member.watch((host, port), self.tls)
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
            async with asyncio.timeout(self.drain_seconds + ANSWER_SECONDS):
                await member.actor.stop.remote(self.drain_seconds)
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
                while await probe.policy_sha256(*member.address, self.tls) != sha256:
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
