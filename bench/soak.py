"""`make soak`: ten minutes of good and bad clients with replacements; every answer is checked.

The service runs with two workers. What it must show: no wrong answer, no lost one, and memory and
descriptors that do not grow.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import torch

from bench.compare import QUERY
from bench.machine import descendants, describe
from bench.server import Server, serving
from cartpole.judge import agree
from cartpole.observation import NAMES, Observation
from cartpole.policy import load
from cartpole.settings import BUNDLED_MODEL

GOOD_CLIENTS, BAD_CLIENTS = 16, 8
RELOAD_SECONDS = 20
BAD = (
    b"nonsense\r\n\r\n",
    b"GET /inference?position=x HTTP/1.1\r\nHost: a\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST /inference HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\nabc",
    b"GET /inference?position=1&velo",
    f"GET /inference?{QUERY} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * 300,
)


@dataclass
class Soak:
    """What has happened so far."""

    server: Server
    until: float
    asked: int = 0
    wrong: int = 0
    lost: int = 0
    retried: int = 0
    faults: int = 0
    reloads: int = 0
    answers: list[tuple[Observation, bytes]] = field(default_factory=list)

    async def good(self, seed: int) -> None:
        chance = random.Random(seed)
        reader = writer = None
        while time.monotonic() < self.until:
            observation = (chance.gauss(0, 2), chance.gauss(0, 2), chance.gauss(0, 0.2), 0.5)
            query = "&".join(f"{n}={v!r}" for n, v in zip(NAMES, observation, strict=True))
            sent = f"GET /inference?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            kept = writer is not None
            self.asked += 1
            try:
                if not writer or not reader:
                    reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                writer.write(sent)
                head = await reader.readuntil(b"\r\n\r\n")
                (size,) = re.findall(rb"content-length: (\d+)", head)
                body = await reader.readexactly(int(size))
            except (OSError, asyncio.IncompleteReadError):
                if writer:
                    writer.close()
                writer = None
                self.retried += kept
                self.lost += not kept
                continue
            if not head.startswith(b"HTTP/1.1 200 "):
                self.wrong += 1
            self.answers.append((observation, body))
            if b"connection: close" in head:
                writer.close()
                writer = None
        if writer:
            writer.close()

    async def bad(self, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < self.until:
            with suppress(OSError, asyncio.TimeoutError):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
                connection = writer.get_extra_info("socket")
                if chance.random() < 0.3:  # closes by a reset
                    linger = struct.pack("ii", 1, 0)
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.write(chance.choice(BAD)[: chance.randrange(1, 30_000)])
                self.faults += 1
                await asyncio.wait_for(reader.read(100), chance.random())
                writer.close()
            await asyncio.sleep(0.01)

    async def replace(self) -> None:
        while time.monotonic() < self.until - RELOAD_SECONDS:
            await asyncio.sleep(RELOAD_SECONDS)
            os.kill(self.server.process.pid, signal.SIGHUP)
            self.reloads += 1

    async def check(self, forward: Callable[[torch.Tensor], torch.Tensor]) -> None:
        while self.answers or time.monotonic() < self.until:
            await asyncio.sleep(0.5)
            taken, self.answers = self.answers, []
            if taken:
                expected = forward(torch.tensor([observation for observation, _ in taken]))
                found = [list(orjson.loads(body).values()) for _, body in taken]
                self.wrong += int((~agree(torch.tensor(found), expected)).sum())


def state(pid: int) -> tuple[float, int]:
    """Resident MiB and descriptors of all its processes."""
    memory, descriptors = 0.0, 0
    for process in [pid, *descendants(pid)]:
        with suppress(OSError):
            text = Path(f"/proc/{process}/status").read_text()
            memory += int(re.findall(r"VmRSS:\s+(\d+)", text)[0]) / 1024
            descriptors += len(list(Path(f"/proc/{process}/fd").iterdir()))
    return memory, descriptors


async def run(server: Server, seconds: float) -> Soak:
    forward = load(BUNDLED_MODEL).forward
    soak = Soak(server, time.monotonic() + seconds)
    await asyncio.gather(
        *(soak.good(seed) for seed in range(GOOD_CLIENTS)),
        *(soak.bad(seed) for seed in range(BAD_CLIENTS)),
        soak.replace(),
        soak.check(forward),
    )
    return soak


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600)
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    with serving("--workers", "2", "--log-level", "error") as server:
        warm = asyncio.run(run(server, min(30.0, seconds / 4)))
        time.sleep(3)
        before = state(server.process.pid)
        soak = asyncio.run(run(server, seconds))
        time.sleep(15)  # the last replacement ends
        after = state(server.process.pid)
    print(
        f"{soak.asked:,} requests in {seconds:.0f} s, {soak.faults:,} bad clients, {soak.reloads} "
        f"replacements; wrong answers {soak.wrong + warm.wrong}, lost {soak.lost + warm.lost}, "
        f"asked again on a new connection {soak.retried}; memory {before[0]:.0f} to "
        f"{after[0]:.0f} MiB, descriptors {before[1]} to {after[1]}\n{describe()}"
    )
    return int(soak.wrong + soak.lost + warm.wrong + warm.lost > 0)


if __name__ == "__main__":
    sys.exit(main())
