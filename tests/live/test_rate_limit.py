"""A client over its rate limit gets a retry time from every worker, and other clients are served."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.live.conftest import serving
from tests.live.openinference.asking import picture, refused
from tests.live.test_contract import problem
from tests.redis_server import redis_server

RATE, BURST = 0.5, 10
MASSES = {"masses": [{"age": 50}]}


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of two workers that share the limit of each key in Redis."""
    log = tmp_path_factory.mktemp("limited") / "log"
    settings = {"rate_limit_per_second": str(RATE), "rate_burst": str(BURST), "api_keys": "greedy,v2,calm,counted"}
    with (
        redis_server() as redis,
        serving(log, workers="2", threads="1", rate_limit_storage_uri=redis.uri, **settings) as url,
    ):
        yield url


def asking(url: str, key: str) -> httpx.Client:
    """Return a client that uses a new connection per request, to reach every worker."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    return httpx.Client(base_url=url, headers=headers, timeout=30)


def test_a_client_over_its_limit_gets_a_retry_time_and_others_are_served(limited: str) -> None:
    with asking(limited, "greedy") as greedy, asking(limited, "calm") as calm, ThreadPoolExecutor(8) as pool:
        began = time.monotonic()
        answers = list(pool.map(lambda _: greedy.post("/v1/mammogram", json=MASSES), range(60)))
        passed = sum(answer.status_code == 200 for answer in answers)
        assert BURST <= passed <= BURST + RATE * (time.monotonic() - began) + 1
        for answer in answers:
            if answer.status_code != 200:
                problem(answer, 429)
                assert 1 <= int(answer.headers["retry-after"]) <= BURST / RATE
        assert calm.post("/v1/mammogram", json=MASSES).status_code == 200
        for path in ("/v1/models", "/v1/models/digits", "/v2/models/digits", "/readyz", "/metrics", "/docs.json"):
            assert greedy.get(path).status_code == 200
        time.sleep(int(answers[-1].headers["retry-after"]))
        assert greedy.post("/v1/mammogram", json=MASSES).status_code == 200


def test_v2_requests_count_against_the_limit_and_get_v2_errors(limited: str) -> None:
    with asking(limited, "v2") as client:
        answers = [client.post("/v2/models/digits/infer", json={"inputs": [picture()]}) for _ in range(BURST + 5)]
    assert [answer.status_code for answer in answers[:BURST]] == [200] * BURST
    assert "0.5 requests a second" in refused(answers[-1], 429)
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_requests_without_a_valid_key_do_not_count_against_the_limit(limited: str) -> None:
    with asking(limited, "wrong") as stranger, asking(limited, "counted") as client:
        assert {stranger.post("/v1/mammogram", json=MASSES).status_code for _ in range(2 * BURST)} == {401}
        assert {client.post("/v1/mammogram", json=MASSES).status_code for _ in range(BURST)} == {200}
        assert client.post("/v1/mammogram", json=MASSES).status_code == 429
        # By no model: what a client spoils for itself is not held against the server's objectives.
        rejected = 'deepserve_requests_total{model="",outcome="rejected",route="/v1/mammogram",version=""} '
        end = time.monotonic() + 10
        while rejected not in client.get("/metrics").text:  # it is counted once it is answered
            assert time.monotonic() < end
