"""Exit codes of the command and of its processes, and why one may refuse to start."""

EXIT_OK = 0
EXIT_USAGE = 2  # a setting is invalid
EXIT_START = 3  # the service can't start with these settings; another attempt would fail too


class Refused(Exception):
    """It can't be served. The text is one line that says why."""
