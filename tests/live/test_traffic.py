"""Canary, shadow and cache: which version answers a request, and which requests need no run."""

import json
import re
import time
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
from scipy.stats import binomtest

from service.api.v2.schema import DATATYPES
from service.engine.session import Runtime
from service.inference.shadow import BACK_OFF_SECONDS
from service.registry.loader import open_verified
from service.tasks.sentiment import SentimentRequest, SentimentTask
from service.traffic_split import TrafficSplit
from tests.live.conftest import serving
from tests.live.test_batching import JSON, at_once, png
from tests.paths import MODELS
from training.data.images import MNIST, load_images

CANARY = TrafficSplit(version="1", share=0.3)
TINY = 3000
"""Bytes of a cache for a few responses."""

ROWS = 64
"""Of a request."""
LABELS = {"model": "digits", "version": "2", "shadow": "1"}


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    settings = {
        "canary": {"digits": CANARY.model_dump(), "mammogram": {"version": "9", "share": 1}},
        "shadow": {"digits": {"version": "1", "share": 1}, "sentiment": {"version": "9", "share": 1}},
        "cache_bytes": {"sentiment": 2**20, "fashion": 2**20, "mammogram": TINY},
    }
    log = tmp_path_factory.mktemp("traffic") / "log"
    with serving(log, **{name: json.dumps(value) for name, value in settings.items()}) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=30, headers=JSON) as made:
        yield made


def metric(client: httpx.Client, name: str, **labels: str) -> float:
    """Return the value of a sample; 0 before its first event."""
    text = ",".join(f'{label}="{value}"' for label, value in sorted(labels.items()))
    found = re.search(rf"^{name}{{{re.escape(text)}}} (\S+)", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def shadowed(client: httpx.Client, model: str, version: str, shadow: str) -> dict[str, float]:
    """Return the rows of shadow copies by outcome."""
    return {
        outcome: metric(
            client, "deepserve_shadow_rows_total", model=model, version=version, shadow=shadow, outcome=outcome
        )
        for outcome in ("agree", "differ", "dropped", "failed")
    }


def looked_up(client: httpx.Client, model: str, version: str) -> tuple[float, float]:
    """Return the number of cache hits and misses."""
    hits, misses = (
        metric(client, "deepserve_cache_requests_total", model=model, version=version, outcome=outcome)
        for outcome in ("hit", "miss")
    )
    return hits, misses


def until_counted(client: httpx.Client, rows: float, *of: str) -> dict[str, float]:
    """Wait until this number of shadow rows is counted; return them by outcome."""
    end = time.monotonic() + 20
    while sum((counts := shadowed(client, *of)).values()) < rows:
        assert time.monotonic() < end, f"{counts} are not {rows} rows"
        time.sleep(0.01)
    return counts


@cache
def pictures(count: int) -> np.ndarray:
    return load_images(MNIST)[1].pictures[:count]


def tensors(**inputs: np.ndarray) -> dict[str, Any]:
    """Return an inference request."""
    return {
        "inputs": [
            {"name": name, "shape": each.shape, "datatype": DATATYPES[each.dtype.name], "data": each.ravel().tolist()}
            for name, each in inputs.items()
        ]
    }


@pytest.mark.parametrize("path", ["/v1/digits", "/v2/models/digits/infer"])
def test_a_canary_gets_its_share_and_a_request_id_always_gets_the_same_version(client: httpx.Client, path: str) -> None:
    picture = pictures(1)
    body = {"images": [png(picture[0])]} if path.startswith("/v1") else tensors(pictures=picture)

    def versions(ids: list[str]) -> list[str]:
        answers = [client.post(path, json=body, headers={"X-Request-ID": each}) for each in ids]
        return [each.json().get("version") or each.json()["model_version"] for each in answers]

    ids = [f"{path} {number}" for number in range(300)]
    found = versions(ids)
    assert found == ["1" if CANARY.takes(each, "canary") else "2" for each in ids]
    assert binomtest(found.count("1"), len(ids), CANARY.share).pvalue > 1e-6
    assert versions(ids[:50]) == found[:50]


@pytest.mark.parametrize("version", ["1", "2"])
def test_a_requested_version_overrides_the_canary(client: httpx.Client, version: str) -> None:
    body = {"images": [png(pictures(1)[0])]}
    for number in range(20):
        answer = client.post(
            "/v1/digits", params={"version": version}, json=body, headers={"X-Request-ID": str(number)}
        )
        assert answer.headers["X-Model-Version"] == version


def test_a_canary_that_is_not_ready_gets_no_requests(client: httpx.Client) -> None:
    for age in range(20, 30):
        answer = client.post("/v1/mammogram", json={"masses": [{"age": age}]})
        assert answer.headers["X-Model-Version"] == "2"


@pytest.fixture(scope="module")
def digits() -> dict[str, np.ndarray]:
    """Return the probabilities of each version for the same pictures."""
    return {
        number: open_verified(MODELS / "digits" / number, Runtime())[1].run({"pictures": pictures(8 * ROWS)})[
            "probabilities"
        ]
        for number in ("1", "2")
    }


def test_shadow_metrics_count_the_agreement_of_two_versions(
    client: httpx.Client, digits: dict[str, np.ndarray]
) -> None:
    time.sleep(2 * BACK_OFF_SECONDS)
    before = shadowed(client, "digits", "2", "1")
    rows = sum(before.values())
    for first in range(0, 8 * ROWS, ROWS):
        some = pictures(8 * ROWS)[first : first + ROWS]
        answer = client.post("/v1/digits?version=2", json={"images": [png(picture) for picture in some]}).json()
        assert [each["digit"] for each in answer["predictions"]] == digits["2"][first : first + ROWS].argmax(1).tolist()
        rows += ROWS
        after = until_counted(client, rows, "digits", "2", "1")
    agree = int((digits["1"].argmax(1) == digits["2"].argmax(1)).sum())
    assert 0 < agree < 8 * ROWS
    assert {name: after[name] - before[name] for name in after} == {
        "agree": agree,
        "differ": 8 * ROWS - agree,
        "dropped": 0,
        "failed": 0,
    }


def test_a_shadow_gets_tensors_unchanged(client: httpx.Client, digits: dict[str, np.ndarray]) -> None:
    time.sleep(2 * BACK_OFF_SECONDS)
    sample = "deepserve_shadow_difference_sum"
    before, differences = shadowed(client, "digits", "2", "1"), metric(client, sample, **LABELS)
    assert client.post("/v2/models/digits/versions/2/infer", json=tensors(pictures=pictures(ROWS))).status_code == 200
    after = until_counted(client, sum(before.values()) + ROWS, "digits", "2", "1")
    one, other = digits["1"][:ROWS], digits["2"][:ROWS]
    assert after["agree"] - before["agree"] == (one.argmax(1) == other.argmax(1)).sum()
    assert metric(client, sample, **LABELS) - differences == pytest.approx(abs(one - other).max(), abs=1e-4)


def test_shadow_copies_are_dropped_under_load_and_clients_are_answered(
    url: str, client: httpx.Client, digits: dict[str, np.ndarray]
) -> None:
    before = shadowed(client, "digits", "2", "1")
    images = [png(picture) for picture in pictures(8 * ROWS)[:ROWS]]
    for answer in at_once(url, "/v1/digits?version=2", [{"images": images}] * 16):
        found = [each["digit"] for each in answer["predictions"]]
        assert found == digits["2"][:ROWS].argmax(1).tolist()
    after = until_counted(client, sum(before.values()) + 16 * ROWS, "digits", "2", "1")
    assert after["dropped"] - before["dropped"] > 8 * ROWS
    assert after["failed"] == 0


def test_a_missing_shadow_version_does_not_affect_clients(client: httpx.Client) -> None:
    before = shadowed(client, "sentiment", "2", "9")
    assert client.post("/v1/sentiment", json={"reviews": ["Fine.", "Awful."]}).status_code == 200
    after = until_counted(client, sum(before.values()) + 2, "sentiment", "2", "9")
    assert after["failed"] == before["failed"] + 2


def test_a_repeated_request_is_answered_from_the_cache(client: httpx.Client) -> None:
    body = {"reviews": ["Who would have thought that a film about chess could be so much fun?"]}
    ran = metric(client, "deepserve_run_rows_sum", model="sentiment", version="2")
    hits, misses = looked_up(client, "sentiment", "2")
    answers = {client.post("/v1/sentiment", json=body).content for _ in range(5)}
    assert len(answers) == 1
    assert metric(client, "deepserve_run_rows_sum", model="sentiment", version="2") == ran + 1
    assert looked_up(client, "sentiment", "2") == (hits + 4, misses + 1)


def test_task_and_v2_requests_share_the_cache(client: httpx.Client) -> None:
    review = "A dull evening, and too long by an hour."
    predictor = SentimentTask(MODELS / "sentiment" / "2")
    inputs, _ = predictor.preprocess(SentimentRequest(reviews=[review]))
    asked = client.post("/v1/sentiment", json={"reviews": [review]}).json()["predictions"][0]
    hits, misses = looked_up(client, "sentiment", "2")
    answer = client.post("/v2/models/sentiment/infer", json=tensors(**inputs)).json()
    assert looked_up(client, "sentiment", "2") == (hits + 1, misses)
    assert answer["outputs"][0]["data"][1] == pytest.approx(asked["probability_positive"])


def test_v2_statistics_count_cache_hits_and_misses(client: httpx.Client) -> None:
    for _ in range(2):
        client.post("/v1/sentiment", json={"reviews": ["Told and told again."]})
    hits, misses = looked_up(client, "sentiment", "2")
    statistics = client.get("/v2/models/sentiment/versions/2/stats").json()["model_stats"][0]["inference_stats"]
    assert (statistics["cache_hit"]["count"], statistics["cache_miss"]["count"]) == (hits, misses)
    assert statistics["cache_hit"]["ns"] > 0
    assert statistics["cache_miss"]["ns"] > 0


def test_fashion_is_cached_only_with_a_seed(client: httpx.Client) -> None:
    before = looked_up(client, "fashion", "1")
    one, other = (client.post("/v1/fashion", json={"count": 1}).json() for _ in range(2))
    assert one["predictions"] != other["predictions"]
    assert looked_up(client, "fashion", "1") == before
    same = {client.post("/v1/fashion", json={"count": 1, "seed": 7}).content for _ in range(3)}
    assert len(same) == 1
    assert looked_up(client, "fashion", "1") == (before[0] + 2, before[1] + 1)


def test_a_cache_stays_within_its_memory_limit(client: httpx.Client) -> None:
    answers = {age: client.post("/v1/mammogram", json={"masses": [{"age": age}]}).content for age in range(20, 60)}
    assert 0 < metric(client, "deepserve_cache_bytes", model="mammogram") <= TINY
    assert metric(client, "deepserve_cache_evictions_total", model="mammogram") > 30
    for age, answer in answers.items():
        assert client.post("/v1/mammogram", json={"masses": [{"age": age}]}).content == answer
