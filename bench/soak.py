"""`make soak`: half an hour of good and bad clients and of all faults of bench/faults.py.

It fails if an answer is not of a policy that may be served, a request is lost other than by the
kill of its worker, the service doesn't recover, or memory or the supervisor's descriptors grow.
"""

import argparse
import asyncio
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import orjson
import torch

from bench.bad_clients import misbehave
from bench.certificate import make_certificate
from bench.contenders import QUERY
from bench.faults import GOOD, WORKER_TIMEOUT, Faults, write_policies
from bench.machine import descendants, describe, has_ended, pss_mebibytes
from bench.server import Server, serving
from cartpole.api.observation import NAMES
from cartpole.policy.contract import Observation
from cartpole.policy.loading import load
from cartpole.policy.tolerance import rows_agree

GOOD_CLIENTS, BAD_CLIENTS = 8, 6  # for each service
ANSWER_SECONDS = 30  # a request that takes longer is lost
CALM_SECONDS = 10  # without clients, before memory is measured
END_SECONDS = 5  # for all processes, after their supervisor was killed
GROWTH = 1.1  # allowed for memory, because the allocator keeps some
SEVERAL = ("--workers", "2", "--worker-timeout", str(WORKER_TIMEOUT))
Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass
class Soak:
    """One service with its clients and faults, and the outcome of the requests.

    Attributes:
        taken: requests that were sent again because a worker was killed meanwhile.
        retried: the same for a kept connection that broke without a kill, as HTTP clients do.
        lost: requests whose new connection broke without a kill, or that had no answer in time.
        wrong: answers with a status other than 200, or with logits of no policy that may be served.
        used: PSS in MiB of all processes, and the supervisor's descriptors, after each round.
    """

    server: Server
    faults: Faults
    sent: int = 0
    taken: int = 0
    retried: int = 0
    lost: int = 0
    wrong: int = 0
    bad_clients: int = 0
    used: list[tuple[float, int]] = field(default_factory=list)
    _answers: list[tuple[Observation, bytes, frozenset[str]]] = field(default_factory=list)

    async def run(self, seconds: float, policies: Path) -> None:
        """Cause all faults, again and again until the time is over."""
        until, pid = time.monotonic() + seconds, self.server.process.pid
        self.faults.read_log()
        while not self.used or time.monotonic() < until:
            await asyncio.gather(
                *(self._good(random.Random(seed)) for seed in range(GOOD_CLIENTS)),
                *(self._bad(random.Random(seed)) for seed in range(BAD_CLIENTS)),
                self._check(policies),
                self.faults.cause_all(),
            )
            await asyncio.sleep(CALM_SECONDS)
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            self.used.append((pss_mebibytes(pid, *descendants(pid)), descriptors))

    def report(self) -> tuple[bool, str]:
        """Whether it has passed, and a line about it."""
        warm = len(self.used) > 2  # then the first round counts as the warm-up
        (memory, descriptors), (memory_now, descriptors_now) = self.used[warm], self.used[-1]
        has_grown = memory_now > GROWTH * memory or descriptors_now > descriptors
        passed = not (self.wrong or self.lost or self.faults.stuck or has_grown)
        counts = ", ".join(f"{count} of {name}" for name, count in self.faults.counts.items())
        return passed, (
            f"{'passed' if passed else 'FAILED'}; {self.sent:,} requests beside "
            f"{self.bad_clients:,} bad clients; {counts}; not recovered from: "
            f"{', '.join(self.faults.stuck) or 'none'}; wrong {self.wrong}, lost {self.lost}, sent "
            f"again {self.taken} after a kill, {self.retried} on a closed connection; memory (PSS) "
            f"{memory:.0f} to {memory_now:.0f} MiB, descriptors {descriptors} to {descriptors_now}"
        )

    # Clients

    async def _connect(self) -> Connection:
        return await asyncio.open_connection("127.0.0.1", self.server.port, ssl=self.server.tls)

    async def _good(self, chance: random.Random) -> None:
        connection = None
        while not self.faults.are_over:
            position, velocity, angle, angular = map(chance.gauss, [0] * 4, (2, 2, 0.2, 1))
            observation = (position, velocity, angle, angular)
            self.sent += 1
            policies = self.faults.may_serve
            connection, head, body = await self._answer(connection, observation)
            if not connection:
                self.lost += 1
            elif not head.startswith(b"HTTP/1.1 200 "):
                self.wrong += 1
            else:
                self._answers.append((observation, body, policies | self.faults.may_serve))
            if connection and (self.faults.are_over or b"connection: close" in head):
                connection[1].close()
                connection = None

    async def _answer(
        self, connection: Connection | None, observation: Observation
    ) -> tuple[Connection | None, bytes, bytes]:
        """The connection, head and body of the answer; no connection if the request is lost."""
        began, kept = time.monotonic(), connection is not None
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    connection = connection or await self._connect()
                    return connection, *await _request(*connection, observation)
            except (OSError, asyncio.IncompleteReadError) as error:
                if connection:
                    connection[1].close()
                connection = None
                if isinstance(error, TimeoutError):
                    return None, b"", b""
            if self.faults.killed_at >= began:
                self.taken += 1
            elif kept:
                self.retried += 1
            else:
                return None, b"", b""
            kept = False

    async def _bad(self, chance: random.Random) -> None:
        while not self.faults.are_over:
            with suppress(OSError, asyncio.TimeoutError):
                reader, writer = await self._connect()
                self.bad_clients += 1
                try:
                    await misbehave(reader, writer, chance)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.01)

    async def _check(self, policies: Path) -> None:
        forward = {name: load(policies / name).forward for name in GOOD}
        while self._answers or not self.faults.are_over:
            await asyncio.sleep(0.5)
            answers, self._answers = self._answers, []
            if not answers:
                continue
            observations = torch.tensor([observation for observation, _, _ in answers])
            found = torch.tensor([list(orjson.loads(body).values()) for _, body, _ in answers])
            right = torch.zeros(len(answers), dtype=torch.bool)
            for name in GOOD:
                may_serve = torch.tensor([name in policies for _, _, policies in answers])
                right |= may_serve & rows_agree(found, forward[name](observations))
            self.wrong += int((~right).sum())


async def _request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, observation: Observation
) -> tuple[bytes, bytes]:
    """Head and body of the answer."""
    query = "&".join(f"{name}={value!r}" for name, value in zip(NAMES, observation, strict=True))
    writer.write(f"GET /inference?{query} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    (size,) = re.findall(rb"content-length: (\d+)", head)
    return head, await reader.readexactly(int(size))


def kill_supervisor(tls: Path | None, is_reloading: bool) -> None:
    """Kill a supervisor, wait for the end of its processes, and start another on the same port.

    Raises:
        RuntimeError: some processes don't end, or the new start doesn't serve.
        OSError: the port is not free.
    """
    with serving(*SEVERAL, tls=tls) as server:
        server.wait_for_workers(2)
        if is_reloading:
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.3)
        processes, began = descendants(server.process.pid), time.monotonic()
        server.process.kill()
        while not all(map(has_ended, processes)):
            if time.monotonic() > began + END_SECONDS:
                raise RuntimeError(f"some of {processes} outlive their supervisor")
            time.sleep(0.01)
        took = time.monotonic() - began
        socket.create_server(("127.0.0.1", server.port)).close()
        with serving(*SEVERAL, tls=tls, port=server.port) as successor:
            if successor.get(f"/inference?{QUERY}")[0] != 200:
                raise RuntimeError("the new start doesn't serve")
    kind, moment = "TLS" if tls else "TCP", ", during a reload" if is_reloading else ""
    print(f"SIGKILL of the supervisor, {kind}{moment}: all ended in {took:.2f} s", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--seconds", type=float, default=1800, help="each fault comes at least once"
    )
    seconds: float = parser.parse_args().seconds
    torch.set_num_threads(1)
    soaks: dict[str, Soak] = {}
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        make_certificate(folder)
        write_policies(folder)
        for tls, is_reloading in product((None, folder), (False, True)):
            kill_supervisor(tls, is_reloading)
        for title, workers, flags, tls in (
            ("TCP, two workers, access log", 2, (*SEVERAL, "--access-log"), None),
            ("TLS, two workers", 2, SEVERAL, folder),
            ("TCP, one worker", 1, (), None),
        ):
            model = Path(shutil.copy(folder / "good", folder / f"{title}.pt"))
            flags = ("--model", str(model), "--limit-body", "100000", *flags)
            server = stack.enter_context(serving(*flags, tls=tls))
            server.wait_for_workers(workers)
            soaks[title] = Soak(server, Faults(server, workers, folder, model))

        async def run() -> None:
            await asyncio.gather(*(one.run(seconds, folder) for one in soaks.values()))

        asyncio.run(run())
    passed = True
    for title, one in soaks.items():
        one_passed, line = one.report()
        print(f"{title}: {line}", *([] if one_passed else one.faults.errors), sep="\n")
        passed &= one_passed
    print(describe())
    return int(not passed)


if __name__ == "__main__":
    sys.exit(main())
