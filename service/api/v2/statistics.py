"""The statistics extension: what each version of a model has done since the server started, in all workers."""

from collections.abc import Iterable, Sequence

import msgspec

from service.observability.batches import STAGES, BatchSize
from service.observability.collecting import Totals, totals
from service.registry.versions import LoadedVersion


class Duration(msgspec.Struct, frozen=True):
    """How often something happened, and how long it took in total."""

    count: int = 0
    ns: int = 0


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
    """Memory that a model takes. It is not known here."""

    type: str
    id: int
    byte_size: int


class VersionStatistics(msgspec.Struct, frozen=True):
    """What a version of a model has done."""

    name: str
    version: str
    last_inference: int
    """Unix time in milliseconds of the last run in a living worker; 0 for none."""
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
    """Return the statistics of versions. Takes milliseconds: for a thread.

    Raises:
        OSError: what the workers share cannot be read.
    """
    counted = totals()
    return ModelStatistics([_of(each, counted.get((each.name, each.number), Totals())) for each in versions])


def _of(version: LoadedVersion, done: Totals) -> VersionStatistics:
    ran = _duration(done, "deepserve_model_requests_total", "deepserve_model_request_seconds_total", "ok")
    hit = _duration(done, "deepserve_cache_requests_total", "deepserve_cache_seconds_total", "hit")
    queued = _duration(done, "deepserve_queue_seconds_count", "deepserve_queue_seconds_sum")
    sizes = done.batches.values()
    requests = InferenceStatistics(
        success=Duration(ran.count + hit.count, ran.ns + hit.ns),
        fail=_duration(done, "deepserve_model_requests_total", "deepserve_model_request_seconds_total", "failed"),
        queue=queued,
        cache_hit=hit,
        cache_miss=_duration(done, "deepserve_cache_requests_total", "deepserve_cache_seconds_total", "miss"),
        **_stages(sizes),
    )
    return VersionStatistics(
        name=version.name,
        version=version.number,
        last_inference=int(1000 * max((each.last_run for each in sizes), default=0)),
        inference_count=sum(size * each.runs for size, each in done.batches.items()),
        execution_count=sum(each.runs for each in sizes),
        inference_stats=requests,
        batch_stats=[BatchStatistics(size, **_stages([each])) for size, each in done.batches.items()],
        memory_usage=[],
    )


def _stages(sizes: Iterable[BatchSize]) -> dict[str, Duration]:
    """Return the durations of the stages of runs, by the names that the extension has for them."""
    sizes = list(sizes)
    count = sum(each.runs for each in sizes)
    return {
        f"compute_{name}": Duration(count, int(1e9 * sum(each.seconds[stage] for each in sizes)))
        for stage, name in enumerate(STAGES)
    }


def _duration(done: Totals, count: str, seconds: str, outcome: str = "") -> Duration:
    """Return a count and a time of the metrics with these names."""
    return Duration(int(done.samples.get((count, outcome), 0)), int(1e9 * done.samples.get((seconds, outcome), 0)))
