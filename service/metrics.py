"""What Prometheus sees. Label values are bounded: route templates, models, versions and outcomes, never raw input."""

import os
from functools import cache

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import multiprocess as _multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 10, 100)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

REQUESTS = Counter(
    "deepserve_requests",
    "Requests by how they ended: ok, invalid, rejected, expired, abandoned or failed",
    ("route", "outcome"),
)
REQUEST_SECONDS = Histogram(
    "deepserve_request_seconds",
    "From the head of a request to the last byte of its answer",
    ("route",),
    buckets=_SECONDS,
)
RUN_ROWS = Histogram("deepserve_run_rows", "Rows in one run of a model", ("model", "version"), buckets=_ROWS)
RUN_SECONDS = Histogram(
    "deepserve_run_seconds", "Time that one run of a model took", ("model", "version"), buckets=_SECONDS
)
MODEL_REQUESTS = Counter(
    "deepserve_model_requests", "Requests that runs of a model ended: ok or failed", ("model", "version", "outcome")
)
MODEL_REQUEST_SECONDS = Counter(
    "deepserve_model_request_seconds",
    "Time from their arrival in the queue to the end of those requests, added up",
    ("model", "version", "outcome"),
)
QUEUE_SECONDS = Counter(
    "deepserve_queue_seconds", "Time that answered requests waited for their run, added up", ("model", "version")
)
QUEUE_ROWS = Gauge(
    "deepserve_queue_rows",
    "Rows that wait for a model",
    ("model", "version"),
    multiprocess_mode="livesum",
)
CACHE_REQUESTS = Counter(
    "deepserve_cache_requests",
    "Requests for models with a cache: hit or miss",
    ("model", "version", "outcome"),
)
CACHE_SECONDS = Counter(
    "deepserve_cache_seconds",
    "Time spent on looking for answers, and on keeping those that were missing, added up",
    ("model", "version", "outcome"),
)
CACHE_BYTES = Gauge(
    "deepserve_cache_bytes", "Memory that the kept answers take", ("model",), multiprocess_mode="livesum"
)
CACHE_EVICTIONS = Counter("deepserve_cache_evictions", "Answers that made room for others", ("model",))
SHADOW_ROWS = Counter(
    "deepserve_shadow_rows",
    "Rows of copied requests by what became of them: agree, differ, dropped or failed",
    ("model", "version", "shadow", "outcome"),
)
SHADOW_DIFFERENCE = Histogram(
    "deepserve_shadow_difference",
    "Largest difference between what two versions answer to a request",
    ("model", "version", "shadow"),
    buckets=_DIFFERENCES,
)
READY = Gauge(
    "deepserve_model_ready",
    "1 if the version serves, 0 if it failed its checks",
    ("model", "version"),
    multiprocess_mode="livemin",
)
PROVIDER = Gauge(
    "deepserve_model_provider",
    "Workers that run the version on this execution provider, and the device that was asked for",
    ("model", "version", "device", "provider"),
    multiprocess_mode="livesum",
)


class ModelSeries:
    """The series of one version of a model: what its batcher tells, looked up once."""

    def __init__(self, model: str, version: str) -> None:
        labels = (model, version)
        self._rows, self._seconds = RUN_ROWS.labels(*labels), RUN_SECONDS.labels(*labels)
        self._queue_rows, self._queue_seconds = QUEUE_ROWS.labels(*labels), QUEUE_SECONDS.labels(*labels)
        self._answered, self._answered_seconds = _ended(*labels, "ok")
        self._failed, self._failed_seconds = _ended(*labels, "failed")

    def waits(self, rows: int) -> None:
        """So many rows wait."""
        self._queue_rows.set(rows)

    def ran(self, rows: int, seconds: float) -> None:
        """A run of `rows` took `seconds`."""
        self._rows.observe(rows)
        self._seconds.observe(seconds)

    def answered(self, requests: int, seconds: float, waited: float) -> None:
        """So many requests have their outputs, `seconds` after they came, of which they `waited` for a run: totals."""
        self._answered.inc(requests)
        self._answered_seconds.inc(seconds)
        self._queue_seconds.inc(waited)

    def failed(self, seconds: float) -> None:
        """A request has failed in a run, `seconds` after it came."""
        self._failed.inc()
        self._failed_seconds.inc(seconds)


class CacheSeries:
    """The series of a model's cache."""

    def __init__(self, model: str) -> None:
        self._bytes, self._evictions = CACHE_BYTES.labels(model), CACHE_EVICTIONS.labels(model)

    def holds(self, size: int) -> None:
        """All its answers take `size` bytes."""
        self._bytes.set(size)

    def evicted(self, answers: int) -> None:
        """So many answers have made room for others."""
        self._evictions.inc(answers)


class LookupSeries:
    """The series of what a version finds in its model's cache."""

    def __init__(self, model: str, version: str) -> None:
        self._hits, self._misses = (CACHE_REQUESTS.labels(model, version, each) for each in ("hit", "miss"))
        self._hit_seconds, self._miss_seconds = (CACHE_SECONDS.labels(model, version, each) for each in ("hit", "miss"))

    def hit(self, seconds: float) -> None:
        """An answer was found, in `seconds`."""
        self._hits.inc()
        self._hit_seconds.inc(seconds)

    def missed(self) -> None:
        """An answer is not there."""
        self._misses.inc()

    def kept(self, seconds: float) -> None:
        """To look for it in vain, and to keep it once it was there, took `seconds`."""
        self._miss_seconds.inc(seconds)


class ShadowSeries:
    """The series of a version whose requests are copied to another, its shadow."""

    def __init__(self, model: str, version: str, shadow: str) -> None:
        labels = (model, version, shadow)
        self._agree, self._differ, self._dropped, self._failed = (
            SHADOW_ROWS.labels(*labels, each) for each in ("agree", "differ", "dropped", "failed")
        )
        self._difference = SHADOW_DIFFERENCE.labels(*labels)

    def compared(self, agree: int, differ: int, difference: float) -> None:
        """So many rows of a request agree and differ, by `difference` at most."""
        self._agree.inc(agree)
        self._differ.inc(differ)
        self._difference.observe(difference)

    def dropped(self, rows: int) -> None:
        """A copy of so many rows was not asked."""
        self._dropped.inc(rows)

    def failed(self, rows: int) -> None:
        """A copy of so many rows could not be compared."""
        self._failed.inc(rows)


def _ended(model: str, version: str, outcome: str) -> tuple[Counter, Counter]:
    labels = (model, version, outcome)
    return MODEL_REQUESTS.labels(*labels), MODEL_REQUEST_SECONDS.labels(*labels)


def exposition() -> bytes:
    """All series of all workers, in Prometheus' text format."""
    return generate_latest(_all_workers())


def totals(model: str, version: str) -> dict[tuple[str, str], float]:
    """The counters and histograms of a version over all workers, by name of the sample and, where it has one, outcome:
    `("deepserve_run_rows_sum", "")`.
    """
    return {
        (sample.name, sample.labels.get("outcome", "")): sample.value
        for family in _all_workers().collect()
        if family.type in ("counter", "histogram")
        for sample in family.samples
        if (sample.labels.get("model"), sample.labels.get("version")) == (model, version)
    }


def _all_workers() -> CollectorRegistry:
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return REGISTRY
    registry = CollectorRegistry()
    _multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return registry


def count(route: str, outcome: str, seconds: float) -> None:
    """Records one finished request."""
    requests, request_seconds = _series(route, outcome)
    requests.inc()
    request_seconds.observe(seconds)


@cache
def _series(route: str, outcome: str) -> tuple[Counter, Histogram]:
    """Looked up once: prometheus_client checks and locks each time."""
    return REQUESTS.labels(route, outcome), REQUEST_SECONDS.labels(route)
