"""`make soak`: half an hour of good and bad clients, reloads, and killed and stopped workers.

It fails if an answer differs from the module's forward, a request is lost, or memory grows.
"""

import argparse
import asyncio
import os
import random
import re
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import torch

from bench.bad_clients import misbehave
from bench.certificate import make_certificate
from bench.machine import descendants, describe, resident_mebibytes
from bench.server import Server, serving
from cartpole.api.observation import NAMES
from cartpole.policy.contract import Observation
from cartpole.policy.loading import load
from cartpole.policy.tolerance import rows_agree
from cartpole.settings import BUNDLED_MODEL

GOOD_CLIENTS, BAD_CLIENTS = 8, 6  # for each service
FAULT_SECONDS = 15  # between two faults in one service
WORKER_TIMEOUT = 3
GROWTH = 1.1  # allowed for memory, because the allocator keeps some
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Soak:
    """One service with its clients and faults, and the outcome of the requests.

    Attributes:
        sent: requests of the good clients.
        retried: requests that were sent again after their connection broke: a kept connection, as
            HTTP clients do, or any connection when a worker was killed meanwhile.
        lost: requests whose new connection broke although no worker was killed.
        wrong: answers with a status other than 200, or with other logits than the module's.
    """

    server: Server
    until: float
    sent: int = 0
    retried: int = 0
    lost: int = 0
    wrong: int = 0
    bad_clients: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    _answers: list[tuple[Observation, bytes]] = field(default_factory=list)
    _killed_at: float = 0.0

    async def run(self) -> None:
        await asyncio.gather(
            *(self._good(random.Random(seed)) for seed in range(GOOD_CLIENTS)),
            *(self._bad(random.Random(seed)) for seed in range(BAD_CLIENTS)),
            self._break(random.Random(0)),
            self._check(),
        )

    # Clients

    async def _connect(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.server.port, ssl=self.server.tls)

    async def _good(self, chance: random.Random) -> None:
        connection = None
        while time.monotonic() < self.until:
            deviations = (2, 2, 0.2, 1)
            position, velocity, angle, angular = (chance.gauss(0, size) for size in deviations)
            observation = (position, velocity, angle, angular)
            self.sent += 1
            connection, head, body = await self._answer(connection, observation)
            if not connection:
                self.lost += 1
            elif not head.startswith(b"HTTP/1.1 200 "):
                self.wrong += 1
            else:
                self._answers.append((observation, body))
            if connection and b"connection: close" in head:
                connection[1].close()
                connection = None
        if connection:
            connection[1].close()

    async def _answer(
        self, connection: Connection | None, observation: Observation
    ) -> tuple[Connection | None, bytes, bytes]:
        """The connection, head and body of the answer; no connection if the request is lost."""
        began, kept = time.monotonic(), connection is not None
        while True:
            try:
                connection = connection or await self._connect()
                return connection, *await _request(*connection, observation)
            except (OSError, asyncio.IncompleteReadError):
                if connection:
                    connection[1].close()
                connection = None
            if not kept and self._killed_at < began:
                return None, b"", b""
            self.retried, kept = self.retried + 1, False

    async def _bad(self, chance: random.Random) -> None:
        while time.monotonic() < self.until:
            with suppress(OSError, asyncio.TimeoutError):
                reader, writer = await self._connect()
                self.bad_clients += 1
                try:
                    await misbehave(reader, writer, chance)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _check(self) -> None:
        forward = load(BUNDLED_MODEL).forward
        while self._answers or time.monotonic() < self.until:
            await asyncio.sleep(0.5)
            answers, self._answers = self._answers, []
            if answers:
                expected = forward(torch.tensor([observation for observation, _ in answers]))
                found = [list(orjson.loads(body).values()) for _, body in answers]
                self.wrong += int((~rows_agree(torch.tensor(found), expected)).sum())

    # Faults

    async def _break(self, chance: random.Random) -> None:
        """Cause faults in turn; the last one leaves time to recover before the end."""
        while time.monotonic() < self.until - 2 * FAULT_SECONDS:
            await asyncio.sleep(FAULT_SECONDS)
            workers = descendants(self.server.process.pid)
            signals = ["SIGHUP", "SIGHUP twice"] + ["SIGKILL", "SIGSTOP"] * bool(workers)
            fault = chance.choice(signals)
            self.faults[fault] = self.faults.get(fault, 0) + 1
            if fault in ("SIGKILL", "SIGSTOP"):
                number = getattr(signal, fault)
                self._killed_at = time.monotonic() + (fault == "SIGSTOP") * 2 * WORKER_TIMEOUT
                with suppress(ProcessLookupError):
                    os.kill(chance.choice(serving_workers(workers)), number)
            else:
                for _ in fault.split():
                    os.kill(self.server.process.pid, signal.SIGHUP)


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observation: Observation
) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    query = "&".join(f"{name}={value!r}" for name, value in zip(NAMES, observation, strict=True))
    writer.write(f"GET /inference?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    (size,) = re.findall(rb"content-length: (\d+)", head)
    return head, await reader.readexactly(int(size))


def serving_workers(processes: list[int]) -> list[int]:
    """The workers among these processes: multiprocessing's resource tracker needs little memory."""
    return [pid for pid in processes if resident_mebibytes(pid) > 100] or processes


def state(server: Server) -> tuple[float, int]:
    """Resident MiB and open descriptors of all processes of a service."""
    memory, descriptors = 0.0, 0
    for pid in [server.process.pid, *descendants(server.process.pid)]:
        with suppress(OSError, ValueError):  # it has exited
            memory += resident_mebibytes(pid)
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return memory, descriptors


async def soak(servers: list[Server], seconds: float) -> list[Soak]:
    soaks = [Soak(server, time.monotonic() + seconds) for server in servers]
    await asyncio.gather(*(one.run() for one in soaks))
    return soaks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    seconds: float = parser.parse_args().seconds
    torch.set_num_threads(1)
    flags = ("--log-level", "error", "--limit-body", "100000")
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        # One worker reloads its model in place; of several, each is replaced.
        several = ("--workers", "2", "--worker-timeout", str(WORKER_TIMEOUT))
        with (
            serving(*flags) as plain,
            serving(*flags, *several, tls=Path(folder)) as secured,
        ):
            servers = [plain, secured]
            asyncio.run(soak(servers, max(60.0, seconds / 10)))
            time.sleep(15)  # until the last worker is replaced
            before = [state(server) for server in servers]
            soaks = asyncio.run(soak(servers, seconds))
            time.sleep(15)
            after = [state(server) for server in servers]
    bad = 0
    for name, one, then, now in zip(
        ("TCP, one worker", "TLS, two workers"), soaks, before, after, strict=True
    ):
        grew = now[0] > GROWTH * then[0] or now[1] > then[1]
        bad += one.wrong + one.lost + grew
        faults = ", ".join(f"{count} of {fault}" for fault, count in sorted(one.faults.items()))
        print(
            f"{name}: {one.sent:,} requests in {seconds:.0f} s beside {one.bad_clients:,} bad "
            f"clients; {faults}; wrong {one.wrong}, lost {one.lost}, retried {one.retried}; memory "
            f"{then[0]:.0f} to {now[0]:.0f} MiB, descriptors {then[1]} to {now[1]}"
        )
    print(describe())
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
