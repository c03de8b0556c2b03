"""Where a benchmark ran: what a reader needs to know to make sense of its figures."""

import os
import platform
import sysconfig
import timeit
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "uvicorn", "uvloop", "httptools", "starlette", "orjson", "numba")


def describe() -> str:
    """One line: processor, cores, system, how this Python was built, versions."""
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(": ")[2]
            break
    options = str(sysconfig.get_config_var("CONFIG_ARGS"))
    configured = "with" if "--enable-optimizations" in options else "without"
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()} (configured {configured} "
        f"--enable-optimizations, {step_nanoseconds():.0f} ns for a step of a loop), "
        f"{', '.join(versions)}"
    )


def step_nanoseconds() -> float:
    """How fast this interpreter is: a step of a loop that adds. The best of several.

    The configuration does not tell. Debian's builds use profile-guided optimization without
    --enable-optimizations; an interpreter that lacks it takes a quarter longer.
    """
    steps = 100_000
    return min(timeit.repeat("x += 1", "x = 0", number=steps, repeat=9)) / steps * 1e9


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and all that it has started, so far."""
    ticks = 0
    for process in [pid, *descendants(pid)]:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def descendants(pid: int) -> list[int]:
    """All that a process has started, and what those have started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *descendants(int(child))]
    return found
