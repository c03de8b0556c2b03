"""Exit codes of the command and of its workers."""

EXIT_OK = 0
EXIT_USAGE = 2  # a setting is invalid
EXIT_START = 3  # the service can't start with these settings; another attempt would fail too
