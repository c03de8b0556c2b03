"""`make evaluate`: the return of a policy in closed loop, through a running service.

Exit codes: 0, 1 the mean is below --at-least, 2 bad usage or unwritable file, 3 no answer.
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from tqdm import tqdm

from bench.server import serving
from tools.closed_loop import LONGEST_EPISODE, NoAnswer, Results, drive

SOLVED = 475.0  # gymnasium's own reward threshold of CartPole-v1
BELOW, USAGE, NO_ANSWER, INTERRUPTED = 1, 2, 3, 130
RAISES = signal.default_int_handler  # KeyboardInterrupt


@contextmanager
def service(url: str | None) -> Iterator[str]:
    """`url` or, without one, the address of a service that is started, and ended with the block.

    Raises:
        NoAnswer: a service could not be started.
    """
    if url:
        yield url
        return
    previous = signal.signal(signal.SIGTERM, RAISES)  # leave no service behind
    try:
        with serving("--host", "127.0.0.1") as server:
            yield f"http://127.0.0.1:{server.port}"
    except RuntimeError as error:
        raise NoAnswer(str(error).strip().splitlines()[-1]) from error
    finally:
        signal.signal(signal.SIGTERM, previous)


def run_until_interrupted(drives: Callable[[], Coroutine[None, None, Results]]) -> Results:
    """asyncio.run, but cancelled by a signal that would raise KeyboardInterrupt.

    Raised in the middle of a task, KeyboardInterrupt leaves the loop tasks that it complains about.

    Raises:
        KeyboardInterrupt: there was such a signal, and now nothing runs.
    """
    asked, cancel = False, cast(Callable[[], object] | None, None)

    def handle(*_: object) -> None:
        nonlocal asked
        asked = True
        if cancel:
            cancel()

    async def cancellable() -> Results:
        nonlocal cancel
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task
        cancel = partial(loop.call_soon_threadsafe, task.cancel)
        if asked:
            task.cancel()
        try:
            return await drives()
        finally:
            cancel = None

    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is RAISES]
    for number in numbers:
        signal.signal(number, handle)
    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number in numbers:
            signal.signal(number, RAISES)


def evaluate(url: str, episodes: int, seed: int, concurrency: int) -> Results:
    """Run the episodes, with a progress bar where standard error is a terminal."""
    form = "{percentage:3.0f}% {bar} {elapsed}, {remaining} left{postfix}"
    work = episodes * LONGEST_EPISODE
    with tqdm(total=work, bar_format=form, leave=False, disable=None, mininterval=0.2) as bar:
        return run_until_interrupted(partial(drive, url, episodes, seed, concurrency, bar))


def summarize(results: Results, seed: int, concurrency: int) -> dict[str, Any]:
    """The fields of --json."""
    latencies = sorted(seconds * 1000 for seconds in results.latencies)
    return {
        "episodes": len(results.returns),
        "seed": seed,
        "concurrency": concurrency,
        "returns": results.returns,
        "mean": statistics.fmean(results.returns),
        "std": statistics.pstdev(results.returns),
        "min": min(results.returns),
        "steps": len(latencies),
        "seconds": results.seconds,
        "steps_per_second": len(latencies) / results.seconds,
        "latency_ms": {
            "p50": percentile(latencies, 50),
            "p99": percentile(latencies, 99),
            "max": latencies[-1],
        },
        "repeats": results.repeats,
    }


def percentile(ordered: list[float], percent: int) -> float:
    """The least value that at least so many percent of all don't exceed (nearest rank)."""
    return ordered[-(-len(ordered) * percent // 100) - 1]


def table(summary: dict[str, Any]) -> str:
    seeds = f"seeds {summary['seed']} to {summary['seed'] + summary['episodes'] - 1}"
    latency = "   ".join(f"{name} {value:.2f}" for name, value in summary["latency_ms"].items())
    rows = {
        "episodes": f"{summary['episodes']}, {seeds}, {summary['concurrency']} at once",
        "return": f"{summary['mean']:.1f} ± {summary['std']:.1f}, least {summary['min']:.0f}",
        "steps": f"{summary['steps']:,} in {summary['seconds']:.1f} s",
        "steps a second": f"{summary['steps_per_second']:,.0f}",
        "latency a step, ms": latency,
        "repeats": f"{summary['repeats']}",
    }
    return "\n".join(f"{name:20} {value}" for name, value in rows.items())


def _url(text: str) -> str:
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return text
    raise argparse.ArgumentTypeError(f"{text!r} is not like http://127.0.0.1:3000")


def _number(least: int) -> Any:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def _output(text: str) -> Path:
    if not Path(text).parent.is_dir() or Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} can't be written")
    return Path(text)


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Evaluate a policy on CartPole-v1 through a running service."
    )
    parser.add_argument("--url", type=_url, help="default: start a service, and end it")
    parser.add_argument("--episodes", type=_number(1), default=100, help="default %(default)s")
    parser.add_argument("--seed", type=_number(0), default=0, help="of the first; default 0")
    parser.add_argument("--concurrency", type=_number(1), default=16, help="default %(default)s")
    parser.add_argument("--at-least", type=float, default=SOLVED, help="default %(default)s")
    parser.add_argument("--json", type=_output, metavar="FILE", help="write the figures")
    parser.add_argument("--record", type=_output, metavar="FILE", help="write the first as a GIF")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    arguments = _arguments(argv)
    try:
        with service(arguments.url) as url:
            results = evaluate(url, arguments.episodes, arguments.seed, arguments.concurrency)
        summary = summarize(results, arguments.seed, arguments.concurrency)
        print(table(summary))
        if arguments.json:
            arguments.json.write_text(json.dumps(summary) + "\n")
        if arguments.record:
            from tools.recording import record

            record(results.first, arguments.seed, arguments.record)
    except NoAnswer as error:
        return _fail(NO_ANSWER, str(error))
    except OSError as error:
        return _fail(USAGE, str(error))
    except KeyboardInterrupt:
        return _fail(INTERRUPTED, "interrupted")
    if not summary["mean"] >= arguments.at_least:
        reason = f"the mean return {summary['mean']:.1f} is below --at-least {arguments.at_least:g}"
        return _fail(BELOW, reason)
    return 0


def _fail(code: int, reason: str) -> int:
    print(f"evaluate: {reason}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
