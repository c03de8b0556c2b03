"""Processor cores and file descriptors of a process."""

import logging
import os
import resource

SPARE_DESCRIPTORS = 80  # for listeners, connections that ask for the health, and files

logger = logging.getLogger("cartpole")


def pin_to_core(core: int) -> None:
    os.sched_setaffinity(0, {core})


def raise_descriptor_limit(connections: int) -> None:
    """Allow this process as many descriptors as the system permits.

    Logs a warning if that is too few for this number of connections.
    """
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard_limit, hard_limit))
    if connections + SPARE_DESCRIPTORS > hard_limit:
        logger.warning(
            "--limit-connections %d: the system permits only %d descriptors",
            connections,
            hard_limit,
        )
