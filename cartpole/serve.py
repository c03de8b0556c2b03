"""`python -m cartpole.serve`: settings, then sockets, then one server or a supervisor of several.

Imports are inside of functions: signals must be handled before anything heavy is imported.
"""

import os
import sys

from cartpole.process import signals


def main() -> None:
    """Run the command, and exit with a code of cartpole/process/exit_codes.py."""
    _open_standard_descriptors()
    signals.install_signal_handlers()
    sys.exit(serve(sys.argv[1:]))


def serve(argv: list[str]) -> int:
    """Serve until told to stop. Returns the exit code."""
    import logging

    from cartpole import logs
    from cartpole.process.exit_codes import EXIT_START, EXIT_USAGE
    from cartpole.process.sockets import bind_sockets, raise_descriptor_limit
    from cartpole.settings import BadSettings, read

    try:
        settings = read(argv)
    except BadSettings as error:
        print(f"cartpole: {error}", file=sys.stderr)
        return EXIT_USAGE
    logs.configure(settings)
    signals.add_cleanup(logs.finish)
    try:
        with bind_sockets(settings) as sockets:
            raise_descriptor_limit(settings.limit_connections)
            if settings.workers == 1:
                # It imports PyTorch, which takes a second or more: not before all this is good.
                from cartpole.process.worker import serve_alone

                return serve_alone(settings, sockets[0])
            from cartpole.process.supervisor import Supervisor

            return Supervisor(settings, argv, sockets).supervise()
    except OSError as error:
        logging.getLogger("cartpole").error("%s", error)
        return EXIT_START


def _open_standard_descriptors() -> None:
    """Open those that are closed. Else the next file to be opened would become standard error."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stderr = sys.stderr or os.fdopen(2, "w")


if __name__ == "__main__":
    main()
