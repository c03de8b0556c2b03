"""The machine that a benchmark runs on, and the resources that its processes use."""

import os
import platform
import re
import timeit
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("torch", "uvicorn", "uvloop", "httptools", "starlette", "orjson", "numba")
WORKER, TEMPLATE = "cartpole-worker", "cartpole-templa"  # as the kernel names the processes


def describe() -> str:
    """One line: processor, cores, operating system, Python and its speed, package versions."""
    processor = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            processor = line.partition(": ")[2]
            break
    versions = []
    for name in PACKAGES:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return (
        f"{processor}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()} ({platform.python_compiler()}, "
        f"{str_nanoseconds():.0f} ns to store an integer's str), "
        f"{', '.join(versions)}"
    )


def str_nanoseconds() -> float:
    """Time to convert an integer to a string and store it in a dictionary; the best of nine runs.

    Builds of one Python version differ in speed, and sysconfig does not always show why: by its
    changelog Debian builds with profile-guided and link-time optimization, but its CONFIG_ARGS and
    flags don't mention either. On an idle machine Debian's 3.11.2 took 51 ns and pyenv's default
    build of 3.11.7 took 66 ns. Other load adds as much, so a high figure can mean either.
    """
    statement, rounds, keys = "for key in range(20): strings[key] = str(key)", 2_000, 20
    return (
        min(timeit.repeat(statement, "strings = {}", number=rounds, repeat=9)) / rounds / keys * 1e9
    )


def cpu_seconds(*pids: int) -> float:
    """User and system time so far of processes and their descendants; 0 for those that ended."""
    ticks = 0
    for process in [one for pid in pids for one in (pid, *descendants(pid))]:
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_mebibytes(pid: int) -> float:
    """Resident memory of one process, without its descendants."""
    (kibibytes,) = re.findall(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(kibibytes) / 1024


def pss_mebibytes(*pids: int) -> float:
    """Proportional set size: pages that processes share are divided among them."""
    kibibytes = 0
    for pid in pids:
        with suppress(OSError):  # it has ended
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kibibytes += sum(map(int, re.findall(r"^Pss:\s+(\d+) kB", text, re.M)))
    return kibibytes / 1024


def descendants(pid: int) -> list[int]:
    """Process ids of the children of a process, their children, and so on."""
    found = []
    with suppress(OSError):  # it has ended
        for task in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in task.read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def children(pid: int, name: str) -> list[int]:
    """The workers or the templates of a supervisor; none of a server that is alone."""
    found = []
    for child in descendants(pid):
        with suppress(OSError):  # it has ended
            if Path(f"/proc/{child}/comm").read_text() == f"{name}\n":
                found.append(child)
    return found


def has_ended(pid: int) -> bool:
    """Whether it does not run any more, even if its parent has not noticed."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
