"""What Prometheus sees. Label values are bounded: route templates, models, versions and outcomes, never raw input."""

import os
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import multiprocess as _multiprocess
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

REQUESTS = Counter(
    "deepserve_requests",
    "Requests by how they ended: ok, invalid, rejected, expired, abandoned or failed",
    ("route", "outcome"),
)
REQUEST_SECONDS = Histogram(
    "deepserve_request_seconds",
    "From the first byte of a request to the last of its answer",
    ("route",),
    buckets=_SECONDS,
)
RUN_ROWS = Histogram("deepserve_run_rows", "Rows in one run of a model", ("model", "version"), buckets=_ROWS)
RUN_SECONDS = Histogram(
    "deepserve_run_seconds", "Time that one run of a model took", ("model", "version"), buckets=_SECONDS
)
QUEUE_ROWS = Gauge(
    "deepserve_queue_rows",
    "Rows that wait for a model",
    ("model", "version"),
    multiprocess_mode="livesum",
)
READY = Gauge(
    "deepserve_model_ready",
    "1 if the version serves, 0 if it failed its checks",
    ("model", "version"),
    multiprocess_mode="livemin",
)


def exposition() -> bytes:
    """All series of all workers, in Prometheus' text format."""
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    _multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def count(route: str, outcome: str, seconds: float) -> None:
    """Records one finished request."""
    requests, request_seconds = _series(route, outcome)
    requests.inc()
    request_seconds.observe(seconds)


@cache
def _series(route: str, outcome: str) -> tuple[Counter, Histogram]:
    """Looked up once: prometheus_client checks and locks each time."""
    return REQUESTS.labels(route, outcome), REQUEST_SECONDS.labels(route)
