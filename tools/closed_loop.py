"""Drives episodes of CartPole-v1 through a service: one asyncio loop, many episodes at once.

A lost answer is asked again, so that a restart of the service costs time and no episode.
"""

import asyncio
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast

import aiohttp
import gymnasium
import numpy as np
import orjson
from aiohttp.client_middlewares import ClientHandlerType
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from tqdm import tqdm
from yarl import URL

from cartpole.api.observation import NAMES

ENVIRONMENT = "CartPole-v1"
LONGEST_EPISODE = 500  # steps, after which CartPole-v1 ends an episode
ATTEMPT_SECONDS = 5.0
PAUSE_SECONDS = 0.1
PATIENCE_SECONDS = 30.0

Observation = tuple[float, ...]


class NoAnswer(Exception):
    """The service gave no usable answer. The message is one line."""


class LostAnswer(Exception):
    """One attempt failed in a way that another may not."""


@dataclass(frozen=True, slots=True)
class Step:
    """A state of the environment, and what the service answered.

    Attributes:
        state: position (m), velocity (m/s), angle (rad), angular velocity (rad/s), as float64.
    """

    state: Observation
    left: float
    right: float

    @property
    def action(self) -> int:
        """CartPole-v1's number of the greedy action: 0 pushes left, 1 pushes right."""
        return int(self.right > self.left)


@dataclass
class Results:
    """Measurements of a run.

    Attributes:
        returns: of each episode, in the order of their seeds.
        first: the steps of the first episode.
        latencies: seconds from question to answer, of each step; lost answers are not in it.
        repeats: questions that were asked again.
        seconds: duration of the whole run.
    """

    returns: list[float]
    first: list[Step] = field(default_factory=list)
    latencies: list[float] = field(default_factory=list)
    repeats: int = 0
    seconds: float = 0.0


async def drive(url: str, episodes: int, seed: int, concurrency: int, bar: "tqdm[None]") -> Results:
    """Run the episodes, `concurrency` of them at once; episode k is `reset(seed=seed + k)`.

    Args:
        bar: advanced by LONGEST_EPISODE for each episode.

    Raises:
        NoAnswer: an answer was lost for PATIENCE_SECONDS, or is not one of this service.
    """
    results = Results([0.0] * episodes)
    numbers = iter(range(episodes))
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=concurrency),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=ATTEMPT_SECONDS),
        middlewares=[_show_lost_answers],
    ) as session:
        client = _Client(session, url.rstrip("/"), results, bar)
        start = time.perf_counter()
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(concurrency, episodes)):
                    group.create_task(_run_episodes(client, numbers, seed))
        except ExceptionGroup as errors:  # the first has ended the others
            raise errors.exceptions[0] from None
        results.seconds = time.perf_counter() - start
    return results


async def _run_episodes(client: "_Client", numbers: Iterator[int], seed: int) -> None:
    """Run the episodes whose numbers are left, one after the other."""
    environment = gymnasium.make(ENVIRONMENT, disable_env_checker=True)
    inner = cast(CartPoleEnv, environment.unwrapped)
    for number in numbers:
        observation, _ = environment.reset(seed=seed + number)
        steps, total, done = 0, 0.0, False
        while not done:
            left, right = await client.logits(observation.tolist())
            step = Step(tuple(np.asarray(inner.state).tolist()), left, right)
            if number == 0:
                client.results.first.append(step)
            observation, reward, terminated, truncated, _ = environment.step(step.action)
            steps, total, done = steps + 1, total + float(reward), terminated or truncated
            client.bar.update(1)
        client.results.returns[number] = total
        client.bar.update(LONGEST_EPISODE - steps)


@dataclass(frozen=True)
class _Client:
    session: aiohttp.ClientSession
    url: str
    results: Results
    bar: "tqdm[None]"

    async def logits(self, observation: list[float]) -> tuple[float, float]:
        """The answer for one observation, which is asked for until it arrives."""
        pairs = zip(NAMES, observation, strict=True)
        query = "&".join(f"{name}={value!r}" for name, value in pairs)
        url = URL(f"{self.url}/inference?{query}", encoded=True)
        first_loss = 0.0
        while True:
            try:
                return await self._ask(url)
            except LostAnswer as error:
                now = time.perf_counter()
                first_loss = first_loss or now
                if now - first_loss >= PATIENCE_SECONDS:
                    message = f"no answer from {self.url} for {PATIENCE_SECONDS:g} s: {error}"
                    raise NoAnswer(message) from error
            self.results.repeats += 1
            self.bar.set_postfix(repeats=self.results.repeats)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, url: URL) -> tuple[float, float]:
        start = time.perf_counter()
        try:
            async with self.session.get(url, allow_redirects=False) as response:
                body = await response.read()
        except TimeoutError as error:
            raise LostAnswer(f"nothing within {ATTEMPT_SECONDS:g} s") from error
        except aiohttp.ClientSSLError as error:
            raise NoAnswer(str(error)) from error
        except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError) as error:
            raise LostAnswer(str(error)) from error
        except aiohttp.ClientError as error:
            raise NoAnswer(f"no HTTP from {self.url}: {type(error).__name__}") from error
        seconds = time.perf_counter() - start
        if response.status >= 500:
            raise LostAnswer(f"status {response.status}")
        logits = _read_logits(response.status, body)
        self.results.latencies.append(seconds)
        return logits


async def _show_lost_answers(
    request: aiohttp.ClientRequest, handler: ClientHandlerType
) -> aiohttp.ClientResponse:
    """Keep aiohttp from repeating a GET on a closed connection unseen: it would not be counted."""
    try:
        return await handler(request)
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        if isinstance(error, aiohttp.ClientSSLError):
            raise
        raise LostAnswer(str(error)) from error


def _read_logits(status: int, body: bytes) -> tuple[float, float]:
    """The logits of an answer.

    Raises:
        NoAnswer: the answer is not `{"left":L,"right":R}` with finite numbers.
    """
    try:
        answer = orjson.loads(body)
        logits = float(answer["left"]), float(answer["right"])
        if status == 200 and all(map(math.isfinite, logits)):
            return logits
    except (ValueError, TypeError, KeyError):
        pass
    raise NoAnswer(f"not an answer with two logits: {status} {body[:200]!r}")
