"""All workers serve the same versions, even if one dies, restarts or stops."""

import time
from pathlib import Path

import httpx

from tests.live.rollout.asking import (
    MLP,
    WORKERS,
    answering,
    mammogram,
    order,
    put,
    statuses,
    until,
    versions,
    workers,
)


def test_a_worker_that_restarts_loads_what_the_others_have_loaded(url: str, models: Path) -> None:
    put(MLP, models, "digits", "3")
    assert order(url, "load", "digits", config=versions(1)).status_code == 200
    assert order(url, "unload", "mammogram").status_code == 200
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    until(lambda: len(workers(url)) == WORKERS and httpx.get(f"{url}/readyz").is_success)
    assert answering(url) == {"1"}
    assert mammogram(url) == {503}


def test_a_worker_that_restarts_and_lacks_a_version_keeps_the_server_from_being_ready(url: str, models: Path) -> None:
    card = (models / "digits" / "2" / "card.json").read_bytes()
    (models / "digits" / "2" / "card.json").write_bytes(b"{}")
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    paths = ("/readyz", "/v2/health/ready", "/v2/models/digits/ready", "/v2/models/digits/versions/2/ready")
    until(lambda: "version 2 of model 'digits'" in httpx.get(f"{url}/readyz").text.lower())
    assert {path: statuses(url, path) for path in paths} == {path: {503} for path in paths}
    others = ("/v2/models/digits/versions/1/ready", "/v2/models/mammogram/ready", "/livez")
    assert {path: statuses(url, path) for path in others} == {path: {200} for path in others}
    (models / "digits" / "2" / "card.json").write_bytes(card)
    assert order(url, "load", "digits").status_code == 200
    assert {path: statuses(url, path) for path in paths} == {path: {200} for path in paths}
    assert answering(url) == {"2"}


def test_a_worker_that_is_starting_makes_the_changes_of_that_time(url: str) -> None:
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    until(lambda: len(workers(url)) == WORKERS)
    end = time.monotonic() + 20
    changes = 0
    while not httpx.get(f"{url}/readyz").is_success:
        assert time.monotonic() < end
        changes += 1
        assert order(url, "unload" if changes % 2 else "load", "mammogram").status_code == 200
    assert changes
    assert order(url, "unload", "mammogram").status_code == 200
    assert mammogram(url) == {503}


def test_nobody_waits_for_a_stopped_worker_and_it_makes_the_change_when_it_goes_on(url: str) -> None:
    worker = workers(url)[0]
    worker.suspend()
    try:
        assert order(url, "unload", "mammogram").status_code == 200  # it takes a minute at most
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert mammogram(url) == {503}
        assert [httpx.get(f"{url}{path}").status_code for path in ("/metrics", "/v2/models/stats")] == [200, 200]
    finally:
        worker.resume()
    until(lambda: httpx.get(f"{url}/readyz").is_success)
    until(lambda: mammogram(url) == {503})
    assert order(url, "load", "mammogram").status_code == 200
    assert mammogram(url) == {200}
