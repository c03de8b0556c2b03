"""An address is claimed by one process at a time."""

import errno
import subprocess
import sys

import pytest

from cartpole.process.sockets import claim_address

ADDRESS = "test_claims"
PROGRAM = f"""
import time
from cartpole.process.sockets import claim_address
claim = claim_address({ADDRESS!r})
print(flush=True)
time.sleep(1000)
"""


def is_claimed(share: bool) -> bool:
    try:
        claim_address(ADDRESS, share).close()
    except OSError as error:
        assert error.errno == errno.EADDRINUSE
        return True
    return False


@pytest.mark.parametrize("share", [False, True])
def test_one_claims_and_many_share(share: bool) -> None:
    with claim_address(ADDRESS, share), claim_address(f"{ADDRESS} of another"):
        assert is_claimed(share=True) is not share
        assert is_claimed(share=False) is not share
    assert not is_claimed(share)


def test_the_claim_of_a_killed_process_is_free() -> None:
    process = subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        try:
            assert process.stdout.readline() == b"\n"
            assert is_claimed(share=False)
        finally:
            process.kill()
    assert not is_claimed(share=False)
