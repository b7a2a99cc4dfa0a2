"""All workers serve the same versions, whatever happens to one of them."""

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
    versions,
    workers,
)
from tests.waiting import wait_until


def test_a_restarted_worker_serves_the_versions_of_the_others(url: str, models: Path) -> None:
    put(MLP, models, "digits", "3")
    assert order(url, "load", "digits", config=versions(1)).status_code == 200
    assert order(url, "unload", "mammogram").status_code == 200
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    wait_until(lambda: len(workers(url)) == WORKERS and httpx.get(f"{url}/readyz").is_success)
    assert answering(url) == {"1"}
    assert mammogram(url) == {503}


def test_a_restarted_worker_with_fewer_versions_is_not_ready(url: str, models: Path) -> None:
    card = (models / "digits" / "2" / "card.json").read_bytes()
    (models / "digits" / "2" / "card.json").write_bytes(b"{}")
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    paths = ("/readyz", "/v2/health/ready", "/v2/models/digits/ready", "/v2/models/digits/versions/2/ready")
    wait_until(lambda: "version 2 of model 'digits'" in httpx.get(f"{url}/readyz").text.lower())
    assert {path: statuses(url, path) for path in paths} == {path: {503} for path in paths}
    others = ("/v2/models/digits/versions/1/ready", "/v2/models/mammogram/ready", "/livez")
    assert {path: statuses(url, path) for path in others} == {path: {200} for path in others}
    (models / "digits" / "2" / "card.json").write_bytes(card)
    assert order(url, "load", "digits").status_code == 200
    assert {path: statuses(url, path) for path in paths} == {path: {200} for path in paths}
    assert answering(url) == {"2"}


def test_a_starting_worker_makes_changes_requested_meanwhile(url: str) -> None:
    worker = workers(url)[0]
    worker.kill()
    worker.wait(10)
    wait_until(lambda: len(workers(url)) == WORKERS)
    end = time.monotonic() + 20
    changes = 0
    while not httpx.get(f"{url}/readyz").is_success:
        assert time.monotonic() < end
        changes += 1
        assert order(url, "unload" if changes % 2 else "load", "mammogram").status_code == 200
    assert changes
    assert order(url, "unload", "mammogram").status_code == 200
    assert mammogram(url) == {503}


def test_a_stopped_worker_delays_no_change_and_makes_it_when_it_continues(url: str) -> None:
    worker = workers(url)[0]
    worker.suspend()
    try:
        assert order(url, "unload", "mammogram").status_code == 200  # it takes a minute at most
        assert httpx.get(f"{url}/readyz").status_code == 503
        assert mammogram(url) == {503}
        assert [httpx.get(f"{url}{path}").status_code for path in ("/metrics", "/v2/models/stats")] == [200, 200]
    finally:
        worker.resume()
    wait_until(lambda: httpx.get(f"{url}/readyz").is_success)
    wait_until(lambda: mammogram(url) == {503})
    assert order(url, "load", "mammogram").status_code == 200
    assert mammogram(url) == {200}
