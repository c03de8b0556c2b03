"""A reload renews the certificate too, or rejects it and keeps the accepted one."""

import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.certificate import make_certificate
from tests.support.clients import connect
from tests.support.family import Family, family, templates, workers
from tests.support.models import new_policy

DONE = {1: "reload: now serving", 2: "reload: done"}


@pytest.fixture(scope="module", params=[1, 2])
def service(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Family]:
    """A service whose certificate.pem and key.pem are beside its model file."""
    folder = tmp_path_factory.mktemp("tls")
    make_certificate(folder)
    with family(folder, size=request.param, tls=folder) as started:
        yield started


def certificates(service: Family) -> set[bytes | None]:
    """Those of new connections, which all workers share."""
    found = set()
    for _ in range(50):
        with connect(service.server) as client:
            assert isinstance(client, ssl.SSLSocket)
            found.add(client.getpeercert(binary_form=True))
    return found


def test_a_reload_renews_the_certificate(service: Family) -> None:
    before = certificates(service)
    make_certificate(service.model.parent)
    service.reload(DONE[service.size])
    after = certificates(service)
    assert len(before) == len(after) == 1
    assert before != after
    assert {status for status, _ in service.answers(20)} == {200}


@pytest.mark.parametrize("fault", ["other key", "nonsense", "missing"])
def test_a_bad_pair_rejects_the_reload(service: Family, fault: str, tmp_path: Path) -> None:
    service.settle()
    folder = service.model.parent
    before, answer = certificates(service), service.answer()
    good = tmp_path / "good"
    shutil.copytree(folder, good)
    make_certificate(tmp_path)
    if fault == "other key":
        shutil.copy(tmp_path / "key.pem", folder)
    elif fault == "nonsense":
        (folder / "certificate.pem").write_text("none")
    else:
        (folder / "key.pem").unlink()
    service.put(new_policy(tmp_path))
    service.reload("reload rejected")
    assert (certificates(service), service.answers(20)) == (before, {answer})
    if service.size > 1:
        service.kill(*workers(service.server))
        assert (certificates(service), service.answers(20)) == (before, {answer})
        service.kill(*workers(service.server), *templates(service.server))
        assert (certificates(service), service.answers(20)) == (before, {answer})
    for name in ("certificate.pem", "key.pem"):
        shutil.copy(good / name, folder)
    service.reload(DONE[service.size])
    assert certificates(service) == before
    assert answer not in service.answers(20)
