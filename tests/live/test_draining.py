"""A draining server announces it, continues to answer, and closes its connections."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.live.conftest import serving

DRAIN = 2.0
BODY = {"masses": [{"age": 50}]}


@dataclass(frozen=True)
class Observation:
    """What a client observed, with a new connection for each request."""

    ready: int
    v2_ready: int
    live: int
    answer: httpx.Response


def watch(url: str, seen: list[Observation]) -> float:
    """Observe the server until it can no longer be reached; return that time, by `time.monotonic`."""
    paths = ("/readyz", "/v2/health/ready", "/livez")
    # One client: to create one for each request takes longer than the drain on a slow machine.
    with httpx.Client(base_url=url, timeout=30, limits=httpx.Limits(max_keepalive_connections=0)) as client:
        while True:
            try:
                ready, v2_ready, live = (client.get(path).status_code for path in paths)
                answer = client.post("/v1/mammogram", json=BODY)
            except httpx.TransportError:
                return time.monotonic()
            seen.append(Observation(ready, v2_ready, live, answer))
            time.sleep(0.02)


def test_a_draining_server_answers_and_is_not_ready(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as pool, serving(tmp_path / "log", drain_seconds=str(DRAIN), workers="2") as url:
        seen: list[Observation] = []
        watched = pool.submit(watch, url, seen)
        while not (seen or watched.done()):
            time.sleep(0.02)
        stopped = time.monotonic()
    assert watched.result() - stopped >= DRAIN
    assert {each.answer.status_code for each in seen} == {200}
    assert {each.live for each in seen} == {200}
    before = [each for each in seen if each.ready == 200]
    after = [each for each in seen if each.ready == 503]
    assert before
    assert after
    assert seen == before + after
    assert {each.v2_ready for each in after} == {503}
    assert "connection" not in before[0].answer.headers
    assert after[-1].answer.headers["connection"] == "close"


def post_once_it_stops(client: httpx.Client, url: str) -> httpx.Response:
    while httpx.get(f"{url}/readyz", timeout=30).status_code == 200:
        time.sleep(0.02)
    return client.post(f"{url}/v1/mammogram", json=BODY)


def test_an_open_connection_gets_one_more_response_and_closes(tmp_path: Path) -> None:
    with (
        ThreadPoolExecutor() as pool,
        httpx.Client() as client,
        serving(tmp_path / "log", drain_seconds=str(DRAIN)) as url,
    ):
        assert "connection" not in client.post(f"{url}/v1/mammogram", json=BODY).headers
        last = pool.submit(post_once_it_stops, client, url)
    assert last.result().status_code == 200
    assert last.result().headers["connection"] == "close"
