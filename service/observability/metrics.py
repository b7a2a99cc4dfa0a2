"""The metrics of the service, and the series that a model, a cache or a route changes.

The values of labels are bounded: route templates, versions of models that exist, outcomes. Input never becomes a label.
The names, the labels, the texts and the buckets are an interface: dashboards, alerts and autoscalers depend on them.
"""

from functools import cache
from time import time

from service.context import RequestContext
from service.observability.observer import Observer, StageSeconds
from service.observability.series import Counter, GatheredCounter, Gauge, Histogram

_SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DIFFERENCES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 10, 100)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)

STAGES = ("input", "infer", "output")
"""The stages of a run: stack the inputs of its requests, compute, and hand the outputs to the requests."""

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
)
DECODE_SECONDS = Histogram(
    "deepserve_decode_seconds", "From the body of a request to the inputs of the model", _VERSION, _SECONDS
)
ENCODE_SECONDS = Histogram(
    "deepserve_encode_seconds", "From the outputs of the model to the body of the answer", _VERSION, _SECONDS
)
QUEUE_SECONDS = Histogram("deepserve_queue_seconds", "Time that a request waited for its run", _VERSION, _SECONDS)
RUN_SECONDS = Histogram("deepserve_run_seconds", "Time that one run of a model took", _VERSION, _SECONDS)
RUN_STAGE_SECONDS = Counter(
    "deepserve_run_stage_seconds",
    "Time that runs of a model took, by stage: input (stacking), infer or output (handing out)",
    (*_VERSION, "stage", "rows"),
    summed_label="rows",
)
RUNS = Counter("deepserve_runs", "Runs of a model by number of rows", (*_VERSION, "rows"), exposed=False)
LAST_RUN = Gauge("deepserve_last_run", "Unix time of the last run", _VERSION, merge=max, exposed=False)
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
    merge=min,
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
DRIFT_ROWS = Counter(
    "deepserve_drift_rows",
    "Rows of a sample of the requests, by feature and bin: its upper bound, or missing",
    ("model", "version", "feature", "bin"),
)
DRIFT_EXPECTED_SHARE = Gauge(
    "deepserve_drift_expected_share",
    "Share of the rows in each bin of a feature in the data that the version was made from",
    ("model", "version", "feature", "bin"),
    merge=min,
)
RATE_LIMIT_FAILURES = Counter(
    "deepserve_rate_limit_failures", "Requests that passed unchecked because the storage of rate limits failed", ()
)


class ModelSeries(Observer):
    """The series of a version of a model that its batcher changes."""

    def __init__(self, model: str, version: str) -> None:
        self._labels = labels = (model, version)
        self._rows, self._seconds = RUN_ROWS.gathered(*labels), RUN_SECONDS.gathered(*labels)
        self._last_run = LAST_RUN.labels(*labels)
        self._runs: dict[int, list[GatheredCounter]] = {}
        """The counter of runs and the counters of the seconds of each stage, by number of rows."""
        self._queue_rows, self._queue_seconds = QUEUE_ROWS.labels(*labels), QUEUE_SECONDS.gathered(*labels)
        self._queue_rows.set(0)
        self._answered, self._failed = (MODEL_REQUESTS.gathered(*labels, end) for end in ("ok", "failed"))
        self._answered_seconds, self._failed_seconds = (
            MODEL_REQUEST_SECONDS.gathered(*labels, end) for end in ("ok", "failed")
        )

    def waits(self, rows: int) -> None:
        """Record how many rows wait for a run."""
        self._queue_rows.set(rows)

    def ran(self, rows: int, times: StageSeconds) -> None:
        """Record a run of `rows` rows that took `times` seconds, by `STAGES`."""
        self._rows.observe(rows)
        self._seconds.observe(times[0] + times[1])
        self._last_run.set(time())
        if (counters := self._runs.get(rows)) is None:
            stages = (RUN_STAGE_SECONDS.gathered(*self._labels, stage, str(rows)) for stage in STAGES)
            counters = self._runs[rows] = [RUNS.gathered(*self._labels, str(rows)), *stages]
        for counter, by in zip(counters, (1, *times), strict=True):
            counter.inc(by)

    def answered(self, seconds: float, waited: float) -> None:
        """Record a request that got its outputs `seconds` after it was queued, and `waited` seconds for its run."""
        self._answered.inc()
        self._answered_seconds.inc(seconds)
        self._queue_seconds.observe(waited)

    def failed(self, seconds: float) -> None:
        """Record a request that failed in a run, `seconds` after it was queued."""
        self._failed.inc()
        self._failed_seconds.inc(seconds)


class CacheSeries(Observer):
    """The series of a model's cache."""

    def __init__(self, model: str) -> None:
        self._bytes, self._evictions = CACHE_BYTES.labels(model), CACHE_EVICTIONS.gathered(model)

    def holds(self, size: int) -> None:
        """Record the bytes that all cached outputs take."""
        self._bytes.set(size)

    def evicted(self, entries: int) -> None:
        """Record how many entries made room for others."""
        self._evictions.inc(entries)


class LookupSeries(Observer):
    """The series of the lookups of one version in the cache of its model."""

    def __init__(self, model: str, version: str) -> None:
        self._hits, self._misses = (CACHE_REQUESTS.gathered(model, version, each) for each in ("hit", "miss"))
        self._hit_seconds, self._miss_seconds = (
            CACHE_SECONDS.gathered(model, version, each) for each in ("hit", "miss")
        )

    def hit(self, seconds: float) -> None:
        """Record a lookup that found outputs in `seconds`."""
        self._hits.inc()
        self._hit_seconds.inc(seconds)

    def missed(self) -> None:
        """Record a lookup that found nothing."""
        self._misses.inc()

    def kept(self, seconds: float) -> None:
        """Record the seconds that a lookup without result took, together with the later storing of the outputs."""
        self._miss_seconds.inc(seconds)


class ShadowSeries:
    """The series of a version whose requests are copied to another version, its shadow."""

    def __init__(self, model: str, version: str, shadow: str) -> None:
        labels = (model, version, shadow)
        self._agree, self._differ, self._dropped, self._failed = (
            SHADOW_ROWS.gathered(*labels, each) for each in ("agree", "differ", "dropped", "failed")
        )
        self._difference = SHADOW_DIFFERENCE.gathered(*labels)

    def compared(self, agree: int, differ: int, difference: float) -> None:
        """Record how many rows of a request agree and how many differ, and the largest difference."""
        self._agree.inc(agree)
        self._differ.inc(differ)
        self._difference.observe(difference)

    def dropped(self, rows: int) -> None:
        """Record a copy with `rows` rows that was dropped before the shadow ran it."""
        self._dropped.inc(rows)

    def failed(self, rows: int) -> None:
        """Record a copied request of so many rows that could not be compared."""
        self._failed.inc(rows)


class RequestSeries:
    """The series of the requests to one route that one version answered, with one outcome."""

    def __init__(self, route: str, model: str, version: str, outcome: str) -> None:
        self._requests = REQUESTS.gathered(route, model, version, outcome)
        self._seconds = REQUEST_SECONDS.gathered(route, model, version)
        if model:
            self._decode = DECODE_SECONDS.gathered(model, version)
            self._encode = ENCODE_SECONDS.gathered(model, version)

    def ended(self, context: RequestContext, seconds: float, *, is_example: bool = False) -> None:
        """Record a request that ended `seconds` after it began; `is_example` makes its trace an exemplar."""
        self._requests.inc()
        if is_example:
            self._seconds.observe_traced(seconds, context.trace_id)
        else:
            self._seconds.observe(seconds)
        if (timings := context.timings) is not None:
            self._decode.observe(timings.preprocessed - timings.received)
            if timings.encoded:
                self._encode.observe(timings.encoded - timings.computed)


requests = cache(RequestSeries)
"""Return the series of a route, a model, a version and an outcome."""
