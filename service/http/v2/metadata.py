"""What the Open Inference Protocol tells of a server and its models: metadata, Triton's configuration, the index."""

from collections.abc import Sequence

from service.engine.card import GRAPHS
from service.engine.repository import Repository, State, Version
from service.http.operations import Document
from service.http.v2.tensors import DATATYPES, protocol_shape
from service.predictors import MAX_ITEMS
from service.telemetry.collecting import Totals, totals
from service.versions import VersionPolicy

_EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "schedule_policy", "statistics")
"""Of `schedule_policy` it has the timeout; no model has levels of priority."""
_CONTROL = ("model_repository", "model_repository(unload_dependents)")


def server(*, controlled: bool) -> Document:
    """The metadata of a server; `controlled` says whether clients may load and unload models."""
    return {
        "name": "deepserve",
        "version": "2",
        "extensions": sorted(_EXTENSIONS + _CONTROL if controlled else _EXTENSIONS),
    }


def metadata(version: Version, ready: Sequence[str]) -> Document:
    """The metadata of a model: its inputs and outputs as in `version`, and the versions that are ready."""
    assert version.card is not None
    inputs, outputs = (
        [{"name": spec.name, "datatype": DATATYPES[spec.dtype], "shape": protocol_shape(spec.shape)} for spec in specs]
        for specs in (version.card.inputs, version.card.outputs)
    )
    return {
        "name": version.name,
        "versions": list(ready),
        "platform": "onnxruntime_onnx",
        "inputs": inputs,
        "outputs": outputs,
    }


def configuration(version: Version, policy: VersionPolicy, max_wait: float) -> Document:
    """The model configuration, as far as it means something here. Dimensions are those of a row, as Triton has them.

    Args:
        version: a ready one.
        policy: by which versions of its model are loaded.
        max_wait: seconds that a run waits for company.
    """
    card, session = version.card, version.session
    assert card is not None
    assert session is not None
    inputs, outputs = (
        [
            {
                "name": spec.name,
                "data_type": f"TYPE_{DATATYPES[spec.dtype]}",
                "dims": protocol_shape(spec.shape)[1:],
            }
            for spec in specs
        ]
        for specs in (card.inputs, card.outputs)
    )
    kind = "KIND_CPU" if session.provider == "CPUExecutionProvider" else "KIND_GPU"
    return {
        "name": card.name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": _version_policy(policy),
        "max_batch_size": MAX_ITEMS,
        "input": inputs,
        "output": outputs,
        "dynamic_batching": {"max_queue_delay_microseconds": round(max_wait * 1e6)},
        "instance_group": [{"name": card.name, "kind": kind, "count": 1}],
        "default_model_filename": GRAPHS[session.precision],
    }


def _version_policy(policy: VersionPolicy) -> Document:
    if policy.listed is not None:
        return {"specific": {"versions": list(policy.listed)}}
    return {"all": {}} if policy.most is None else {"latest": {"num_versions": policy.most}}


def statistics(versions: Sequence[Version]) -> list[Document]:
    """What versions have done since the server started, in all workers: for a thread, collecting it takes milliseconds.

    Raises:
        OSError: what the workers share cannot be read.
    """
    counted = totals()
    return [_statistics(version, counted.get((version.name, version.number), {})) for version in versions]


def _statistics(version: Version, counted: Totals) -> Document:
    """Inputs and outputs are not timed apart from the run; what batches were made is in the metrics."""

    def duration(count: str, seconds: str, outcome: str = "") -> dict[str, int]:
        return {"count": int(counted.get((count, outcome), 0)), "ns": int(counted.get((seconds, outcome), 0) * 1e9)}

    nothing = {"count": 0, "ns": 0}
    ran = duration("deepserve_model_requests_total", "deepserve_model_request_seconds_total", "ok")
    hit = duration("deepserve_cache_requests_total", "deepserve_cache_seconds_total", "hit")
    return {
        "name": version.name,
        "version": version.number,
        "inference_count": int(counted.get(("deepserve_run_rows_sum", ""), 0)),
        "execution_count": int(counted.get(("deepserve_run_rows_count", ""), 0)),
        "inference_stats": {
            "success": {name: ran[name] + hit[name] for name in ran},
            "fail": duration("deepserve_model_requests_total", "deepserve_model_request_seconds_total", "failed"),
            "queue": {
                "count": ran["count"],
                "ns": int(counted.get(("deepserve_queue_seconds_sum", ""), 0) * 1e9),
            },
            "compute_input": nothing,
            "compute_infer": duration("deepserve_run_seconds_count", "deepserve_run_seconds_sum"),
            "compute_output": nothing,
            "cache_hit": hit,
            "cache_miss": duration("deepserve_cache_requests_total", "deepserve_cache_seconds_total", "miss"),
        },
        "batch_stats": [],
        "memory_usage": [],
    }


def index(repository: Repository, *, only_ready: bool) -> list[Document]:
    """Return every version of every model, its state, and what is wrong with it or with its files.

    A model whose folder could never be read has one entry, whose version is empty.
    """
    found: list[Document] = []
    for name, versions in repository.models.items():
        found += [
            {"name": name, "version": number, "state": version.state, "reason": version.reason or ""}
            for number, version in versions.items()
            if version.state is State.READY or not only_ready
        ]
        if not versions and not only_ready:
            found.append({"name": name, "version": "", "state": State.UNAVAILABLE, "reason": "its files are missing"})
    return found
