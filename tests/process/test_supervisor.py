"""The supervisor starts its workers one after the other."""

from tests.support.supervised import Start


def test_the_first_worker_starts_alone(make: Start) -> None:
    service = make(workers=3)
    service.until(service.serving)
    assert len(service.pids()) == len(service.serving()) == 1
    assert len(service.start()) == 3
    assert service.pids() == service.serving()
    assert service.restarts() == 0
