"""`python -m tests.fuzz.differential [SEQUENCES] [SEED]`: both modes over real sockets.

They must answer random sequences of requests with the same bytes, and end the connection alike.
"""

import re
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from itertools import takewhile
from operator import add, attrgetter

from tests.fuzz.sequences import BODY_BYTES, HEAD_BYTES, Generator, Item, Sequence
from tests.fuzz.services import MODES, TRANSPORTS, Client, Connect, services

FLAGS = (f"--limit-head={HEAD_BYTES}", f"--limit-body={BODY_BYTES}")
HANG = b"\n(the client waits for more)"
CLOSE = b"\r\nconnection: close\r\n"

_continue = re.compile(rb"HTTP/1\.1 100 Continue\r\n\r\n")
_date = re.compile(rb"\r\ndate: [^\r]*")
_statuses = re.compile(rb"HTTP/1\.1 (\d\d\d) [\w -]*\r\n").findall


def answers(sequence: Sequence, connects: list[Connect]) -> list[bytes]:
    """What each service answers to a sequence, up to the end of the connection."""
    with ExitStack() as stack:
        clients = [stack.enter_context(closing(connect())) for connect in connects]
        received = [b""] * len(clients)
        for part in sequence.parts:
            for client in clients:
                client.send(part)
            if sequence.pause:
                time.sleep(sequence.pause)
            if sequence.asks_in_turn:
                received = [*map(add, received, map(_receive, clients))]
                if any(CLOSE in answer or HANG in answer for answer in received):
                    break
        if sequence.half_closes:
            for client in clients:
                client.half_close()
        return [*map(add, received, map(_rest, clients))]


def _receive(client: Client) -> bytes:
    try:
        return client.receive()
    except TimeoutError:
        return HANG


def _rest(client: Client) -> bytes:
    received = b""
    while more := _receive(client):
        received += more
        if more is HANG:
            break
    return received


def fault(sequence: Sequence, answered: list[bytes]) -> str | None:
    """What is wrong with the answers, or None."""
    found = {_date.sub(b"", _continue.sub(b"", answer)) for answer in answered}
    if len(found) > 1:
        return "the modes differ"
    (answer,) = found
    if HANG in answer:
        return "both modes hang"
    if CLOSE in answer and _statuses(answer.rpartition(CLOSE)[2]):
        return "answers follow the last"
    return _wrong_answer(sequence.items, _statuses(answer), CLOSE in answer)


def _wrong_answer(items: list[Item], statuses: list[bytes], says_close: bool) -> str | None:
    """What is wrong with the answers to the requests before the first broken one, or None."""
    whole = list(takewhile(attrgetter("is_whole"), items))
    for item, status in zip(whole, statuses, strict=False):
        if item.is_good and status != b"200":
            return f"{status.decode()} for the good request {item.data!r}"
    is_short = len(statuses) < len(whole) and not (statuses and says_close)
    if is_short or len(statuses) > len(whole) == len(items):
        return f"{len(statuses)} answers to {len(whole)} requests"
    return None


def describe(seed: int, problem: str, sequence: Sequence, answered: list[bytes]) -> str:
    lines = [f"seed {seed}: {problem}", *(f"  sent {part!r}" for part in sequence.parts)]
    if sequence.half_closes:
        lines.append("  half-closed")
    for mode, answer in zip(MODES, answered, strict=True):
        lines.append(f"  {mode} answered {answer!r}")
    return "\n".join(lines)


def compare(transport: str, seeds: Iterable[int], seconds: float = 1e9) -> tuple[int, str]:
    """Compare the modes until there is a fault, the seeds are used up or the time is over.

    Returns:
        how many sequences were sent, and a description of the fault; it is empty without one.
    """
    number = 0
    with services(transport, *FLAGS) as connects:
        deadline = time.monotonic() + seconds
        for number, seed in enumerate(seeds, 1):
            sequence = Generator(seed).sequence()
            answered = answers(sequence, connects)
            if problem := fault(sequence, answered):
                return number, describe(seed, problem, sequence, answered)
            if time.monotonic() > deadline:
                break
    return number, ""


def main() -> None:
    sequences, seed = map(int, [*sys.argv[1:], *("1000", "1")[len(sys.argv) - 1 :]])
    has_failed = False
    for transport in TRANSPORTS:
        started = time.monotonic()
        number, problem = compare(transport, range(seed, seed + sequences))
        rate = number / (time.monotonic() - started)
        print(f"{transport}: {number} sequences, {rate:.0f}/s", problem, flush=True)
        has_failed = has_failed or bool(problem)
    sys.exit(has_failed)


if __name__ == "__main__":
    main()
