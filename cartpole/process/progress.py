"""Whether a process or a thread works, by what the kernel counts for it."""

from contextlib import suppress
from pathlib import Path

STUCK_SECONDS = 30


class Progress:
    """The processor time and the bytes read of a process or a thread, as last seen to grow.

    What the children of a process do counts as well.
    """

    def __init__(self, folder: Path, now: float) -> None:
        """Begin to watch.

        Args:
            folder: /proc/PID for a process, /proc/self/task/TID for a thread.
            now: seconds of a clock, the same one as is_stuck gets.
        """
        self.folder = folder
        self._work, self._worked_at = self._read(), now

    def is_stuck(self, now: float) -> bool:
        """Whether neither has grown for STUCK_SECONDS. Unreadable counts are taken to grow."""
        work = self._read()
        if work is None or work != self._work:
            self._work, self._worked_at = work, now
        return now - self._worked_at >= STUCK_SECONDS

    def _read(self) -> list[tuple[int, int]] | None:
        """Of it and its children, clock ticks and bytes; None if they can't be read."""
        pid = self.folder.name
        try:
            children = (self.folder / "task" / pid / "children").read_text().split()
        except OSError:  # a thread, or it has ended
            children = []
        try:
            return [_work(self.folder), *(_work(Path(f"/proc/{child}")) for child in children)]
        except OSError:
            return None


def _work(folder: Path) -> tuple[int, int]:
    """Clock ticks and bytes."""
    rchar = 0
    # utime and stime of proc_pid_stat(5), behind the name, which may hold anything.
    fields = (folder / "stat").read_bytes().rpartition(b")")[2].split()
    with suppress(OSError):  # another user's, for one; processor time must do
        rchar = int((folder / "io").read_bytes().split()[1])
    return int(fields[11]) + int(fields[12]), rchar
