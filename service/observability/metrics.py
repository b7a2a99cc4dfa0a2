"""What is counted and timed. Label values are bounded: route templates, models and versions that are served, outcomes.

Never raw input. `service.observability.series` keeps the numbers; the classes here look the labels up once.
"""

from functools import cache
from pathlib import Path

from service.context import RequestContext
from service.observability.batches import Batches, Runs
from service.observability.board import BOARD
from service.observability.observer import Observer, StageSeconds
from service.observability.series import Counter, Gauge, Histogram, Number

_SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 10, 100)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

_VERSION = ("model", "version")

REQUESTS = Counter(
    "deepserve_requests",
    "Requests by how they ended: ok, invalid, rejected, expired, abandoned or failed",
    ("route", *_VERSION, "outcome"),
)
REQUEST_SECONDS = Histogram(
    "deepserve_request_seconds",
    "From the head of a request to the last byte of its answer",
    ("route", *_VERSION),
    _SECONDS,
    exemplars=True,
)
DECODE_SECONDS = Histogram(
    "deepserve_decode_seconds", "From the body of a request to the inputs of the model", _VERSION, _SECONDS
)
ENCODE_SECONDS = Histogram(
    "deepserve_encode_seconds", "From the outputs of the model to the body of the answer", _VERSION, _SECONDS
)
QUEUE_SECONDS = Histogram("deepserve_queue_seconds", "Time that a request waited for its run", _VERSION, _SECONDS)
RUN_SECONDS = Histogram("deepserve_run_seconds", "Time that one run of a model took", _VERSION, _SECONDS)
RUN_STAGES = Batches(
    "deepserve_run_stage_seconds",
    "Time that runs of a model took, by stage: input (stacking), infer or output (handing out)",
    (*_VERSION, "rows"),
)
RUN_ROWS = Histogram("deepserve_run_rows", "Rows in one run of a model", _VERSION, _ROWS)
MODEL_REQUESTS = Counter(
    "deepserve_model_requests", "Requests that runs of a model ended: ok or failed", (*_VERSION, "outcome")
)
MODEL_REQUEST_SECONDS = Counter(
    "deepserve_model_request_seconds",
    "Time from their arrival in the queue to the end of those requests, added up",
    (*_VERSION, "outcome"),
)
QUEUE_ROWS = Gauge("deepserve_queue_rows", "Rows that wait for a model", _VERSION)
QUEUE_LIMIT = Gauge("deepserve_queue_limit_rows", "Most rows that may wait for a model", _VERSION)
CACHE_REQUESTS = Counter(
    "deepserve_cache_requests", "Requests for models with a cache: hit or miss", (*_VERSION, "outcome")
)
CACHE_SECONDS = Counter(
    "deepserve_cache_seconds",
    "Time spent on looking for answers, and on keeping those that were missing, added up",
    (*_VERSION, "outcome"),
)
CACHE_BYTES = Gauge("deepserve_cache_bytes", "Memory that the kept answers take", ("model",))
CACHE_EVICTIONS = Counter("deepserve_cache_evictions", "Answers that made room for others", ("model",))
SHADOW_ROWS = Counter(
    "deepserve_shadow_rows",
    "Rows of copied requests by what became of them: agree, differ, dropped or failed",
    (*_VERSION, "shadow", "outcome"),
)
SHADOW_DIFFERENCE = Histogram(
    "deepserve_shadow_difference",
    "Largest difference between what two versions answer to a request",
    (*_VERSION, "shadow"),
    _DIFFERENCES,
)
LOADS = Counter(
    "deepserve_model_loads",
    "Versions that a worker has verified and loaded (ok), or that have not proved themselves (failed)",
    ("model", "outcome"),
)
READY = Gauge(
    "deepserve_model_ready",
    "1 if the version serves, 0 if it failed its checks or its files are missing",
    _VERSION,
    least=True,
)
FILES_MISSING = Gauge(
    "deepserve_model_files_missing",
    "Workers that serve the version although its files are missing, unreadable or damaged: it cannot be loaded again",
    _VERSION,
)
PROVIDER = Gauge(
    "deepserve_model_provider",
    "Workers that run the version on this execution provider in this precision, and the device that was asked for",
    (*_VERSION, "device", "provider", "precision"),
)
MEMORY = Gauge("deepserve_worker_resident_bytes", "Memory that a worker takes", ("worker",))
CPU = Counter("deepserve_worker_cpu_seconds", "CPU time that a worker has taken since it started", ("worker",))

LOG_LINES_DROPPED = Counter("deepserve_log_lines_dropped", "Lines of the log that their reader was too slow for", ())
LOG_LINES_LEFT_OUT = Counter(
    "deepserve_log_lines_left_out", "Log lines about refused requests beyond DEEPSERVE_LOG_REFUSALS_PER_SECOND", ()
)


class ModelSeries(Observer):
    """The series of one version of a model: what its batcher tells, looked up once."""

    def __init__(self, model: str, version: str) -> None:
        labels = (model, version)
        self._labels = labels
        self._rows, self._seconds = RUN_ROWS.labels(*labels), RUN_SECONDS.labels(*labels)
        self._runs: dict[int, Runs] = {}
        self._queue_rows, self._queue_seconds = QUEUE_ROWS.labels(*labels), QUEUE_SECONDS.labels(*labels)
        self._queue_rows.set(0)
        self._answered, self._answered_seconds = _ended(*labels, "ok")
        self._failed, self._failed_seconds = _ended(*labels, "failed")

    def waits(self, rows: int) -> None:
        self._queue_rows.set(rows)

    def ran(self, rows: int, times: StageSeconds) -> None:
        self._rows.observe(rows)
        self._seconds.observe(times[0] + times[1])
        if (runs := self._runs.get(rows)) is None:
            runs = self._runs[rows] = RUN_STAGES.labels(*self._labels, str(rows))
        runs.add(*times)

    def answered(self, seconds: float, waited: float) -> None:
        self._answered.inc()
        self._answered_seconds.inc(seconds)
        self._queue_seconds.observe(waited)

    def failed(self, seconds: float) -> None:
        self._failed.inc()
        self._failed_seconds.inc(seconds)


class CacheSeries(Observer):
    """The series of a model's cache."""

    def __init__(self, model: str) -> None:
        self._bytes, self._evictions = CACHE_BYTES.labels(model), CACHE_EVICTIONS.labels(model)

    def holds(self, size: int) -> None:
        self._bytes.set(size)

    def evicted(self, entries: int) -> None:
        self._evictions.inc(entries)


class LookupSeries(Observer):
    """The series of what a version finds in its model's cache."""

    def __init__(self, model: str, version: str) -> None:
        self._hits, self._misses = (CACHE_REQUESTS.labels(model, version, each) for each in ("hit", "miss"))
        self._hit_seconds, self._miss_seconds = (CACHE_SECONDS.labels(model, version, each) for each in ("hit", "miss"))

    def hit(self, seconds: float) -> None:
        self._hits.inc()
        self._hit_seconds.inc(seconds)

    def missed(self) -> None:
        self._misses.inc()

    def kept(self, seconds: float) -> None:
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


class RequestSeries:
    """The series of requests to one route that end in one way."""

    def __init__(self, route: str, model: str, version: str, outcome: str) -> None:
        self._requests = REQUESTS.labels(route, model, version, outcome)
        self._seconds = REQUEST_SECONDS.labels(route, model, version)
        if model:
            self._decode, self._encode = DECODE_SECONDS.labels(model, version), ENCODE_SECONDS.labels(model, version)

    def ended(self, context: RequestContext, seconds: float, *, is_example: bool = False) -> None:
        """A request has ended, `seconds` after it began; an example can be looked up by its trace."""
        self._requests.inc()
        self._seconds.observe(seconds)
        if is_example:
            self._seconds.exemplify(seconds, bytes.fromhex(context.trace_id))
        if (timings := context.timings) is not None:
            self._decode.observe(timings.preprocessed - timings.received)
            if timings.encoded:
                self._encode.observe(timings.encoded - timings.computed)


def _ended(model: str, version: str, outcome: str) -> tuple[Number, Number]:
    labels = (model, version, outcome)
    return MODEL_REQUESTS.labels(*labels), MODEL_REQUEST_SECONDS.labels(*labels)


requests = cache(RequestSeries)
"""Those of a route, a model, a version and an outcome, looked up once."""


def share(folder: Path) -> None:
    """Counts together with the other workers that share `folder`."""
    BOARD.share(folder / "metrics")
