"""The statistics extension of V2: the requests and runs of each version since the server started, in all workers."""

from collections.abc import Sequence

import msgspec

from service.observability import metrics
from service.observability.exposition import Reading
from service.observability.series import Counter
from service.registry.versions import LoadedVersion


class Duration(msgspec.Struct, frozen=True):
    """How often something happened, and how long it took in total."""

    count: int = 0
    ns: int = 0

    def __add__(self, other: "Duration") -> "Duration":
        return Duration(self.count + other.count, self.ns + other.ns)


class InferenceStatistics(msgspec.Struct, frozen=True):
    """Requests and their stages. A run serves many requests: the compute stages count runs."""

    success: Duration
    fail: Duration
    queue: Duration
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration
    cache_hit: Duration
    cache_miss: Duration


class BatchStatistics(msgspec.Struct, frozen=True):
    """The runs of one batch size."""

    batch_size: int
    compute_input: Duration
    compute_infer: Duration
    compute_output: Duration


class MemoryUsage(msgspec.Struct, frozen=True):
    """The memory of a model. This server does not measure it."""

    type: str
    id: int
    byte_size: int


class VersionStatistics(msgspec.Struct, frozen=True):
    """The statistics of one version of a model."""

    name: str
    version: str
    last_inference: int
    """Unix time in milliseconds of the last run in a living worker; 0 if there was none."""
    inference_count: int
    """Rows."""
    execution_count: int
    """Runs."""
    inference_stats: InferenceStatistics
    batch_stats: list[BatchStatistics]
    """By batch size, in ascending order."""
    memory_usage: list[MemoryUsage]


class ModelStatistics(msgspec.Struct, frozen=True):
    """The statistics of versions of models."""

    model_stats: list[VersionStatistics]


def statistics(versions: Sequence[LoadedVersion]) -> ModelStatistics:
    """Return the statistics of versions. Takes milliseconds: call it in a thread.

    Raises:
        OSError: the metrics of the workers cannot be read.
    """
    reading = Reading()
    return ModelStatistics([_of(version, reading) for version in versions])


def _of(version: LoadedVersion, reading: Reading) -> VersionStatistics:
    labels = (version.name, version.number)
    sizes = sorted(map(int, reading.last_labels(metrics.RUNS, *labels)))
    runs = {size: int(reading.counter(metrics.RUNS, *labels, str(size))) for size in sizes}
    stages = {size: _stages(reading, version, size, runs[size]) for size in sizes}
    succeeded, failed = (
        _duration(reading, metrics.MODEL_REQUESTS, metrics.MODEL_REQUEST_SECONDS, *labels, outcome)
        for outcome in ("ok", "failed")
    )
    hit, miss = (
        _duration(reading, metrics.CACHE_REQUESTS, metrics.CACHE_SECONDS, *labels, outcome)
        for outcome in ("hit", "miss")
    )
    queued, seconds = reading.histogram(metrics.QUEUE_SECONDS, *labels)
    return VersionStatistics(
        name=version.name,
        version=version.number,
        last_inference=int(1000 * reading.gauge(metrics.LAST_RUN, *labels)),
        inference_count=sum(size * count for size, count in runs.items()),
        execution_count=sum(runs.values()),
        inference_stats=InferenceStatistics(
            success=succeeded + hit,
            fail=failed,
            queue=Duration(queued, int(1e9 * seconds)),
            cache_hit=hit,
            cache_miss=miss,
            **{name: sum((each[name] for each in stages.values()), Duration()) for name in _STAGES.values()},
        ),
        batch_stats=[BatchStatistics(size, **stages[size]) for size in sizes],
        memory_usage=[],
    )


_STAGES = {stage: f"compute_{stage}" for stage in metrics.STAGES}
"""The names of the stages in the extension, by those in the metrics."""


def _stages(reading: Reading, version: LoadedVersion, size: int, runs: int) -> dict[str, Duration]:
    """Return the durations of the stages of the runs of one batch size, by their names in the extension."""
    labels = (version.name, version.number)
    seconds = {
        name: reading.counter(metrics.RUN_STAGE_SECONDS, *labels, stage, str(size)) for stage, name in _STAGES.items()
    }
    return {name: Duration(runs, int(1e9 * total)) for name, total in seconds.items()}


def _duration(reading: Reading, count: Counter, seconds: Counter, *labels: str) -> Duration:
    """Return a duration from a counter of events and one of their seconds."""
    return Duration(int(reading.counter(count, *labels)), int(1e9 * reading.counter(seconds, *labels)))
