"""What `/metrics` exposes is an interface of dashboards, alerts and autoscalers: it does not change by accident."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from service.observability.exposition import Reading
from service.observability.metrics import RUN_STAGE_SECONDS, RUNS, ModelSeries
from service.observability.series import flush
from tests.paths import ROOT

SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BUCKETS = {
    "deepserve_run_rows": (1, 2, 4, 8, 16, 32, 64, 128),
    "deepserve_shadow_difference": (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 10, 100),
}
"""Of the histograms that are not of seconds."""

FAMILIES = [
    (
        "deepserve_requests",
        "counter",
        "route model version outcome",
        "Requests by how they ended: ok, invalid, rejected, expired, abandoned or failed",
    ),
    (
        "deepserve_request_seconds",
        "histogram",
        "route model version",
        "From the head of a request to the last byte of its answer",
    ),
    ("deepserve_decode_seconds", "histogram", "model version", "From the body of a request to the inputs of the model"),
    (
        "deepserve_encode_seconds",
        "histogram",
        "model version",
        "From the outputs of the model to the body of the answer",
    ),
    ("deepserve_queue_seconds", "histogram", "model version", "Time that a request waited for its run"),
    ("deepserve_run_seconds", "histogram", "model version", "Time that one run of a model took"),
    (
        "deepserve_run_stage_seconds",
        "counter",
        "model version stage",
        "Time that runs of a model took, by stage: input (stacking), infer or output (handing out)",
    ),
    ("deepserve_run_rows", "histogram", "model version", "Rows in one run of a model"),
    (
        "deepserve_model_requests",
        "counter",
        "model version outcome",
        "Requests that runs of a model ended: ok or failed",
    ),
    (
        "deepserve_model_request_seconds",
        "counter",
        "model version outcome",
        "Time from their arrival in the queue to the end of those requests, added up",
    ),
    ("deepserve_queue_rows", "gauge", "model version", "Rows that wait for a model"),
    ("deepserve_queue_limit_rows", "gauge", "model version", "Most rows that may wait for a model"),
    ("deepserve_cache_requests", "counter", "model version outcome", "Requests for models with a cache: hit or miss"),
    (
        "deepserve_cache_seconds",
        "counter",
        "model version outcome",
        "Time spent on looking for answers, and on keeping those that were missing, added up",
    ),
    ("deepserve_cache_bytes", "gauge", "model", "Memory that the kept answers take"),
    ("deepserve_cache_evictions", "counter", "model", "Answers that made room for others"),
    (
        "deepserve_shadow_rows",
        "counter",
        "model version shadow outcome",
        "Rows of copied requests by what became of them: agree, differ, dropped or failed",
    ),
    (
        "deepserve_shadow_difference",
        "histogram",
        "model version shadow",
        "Largest difference between what two versions answer to a request",
    ),
    (
        "deepserve_model_loads",
        "counter",
        "model outcome",
        "Versions that a worker has verified and loaded (ok), or that have not proved themselves (failed)",
    ),
    (
        "deepserve_model_ready",
        "gauge",
        "model version",
        "1 if the version serves, 0 if it failed its checks or its files are missing",
    ),
    (
        "deepserve_model_files_missing",
        "gauge",
        "model version",
        "Workers that serve the version although its files are missing, unreadable or damaged: "
        "it cannot be loaded again",
    ),
    (
        "deepserve_model_provider",
        "gauge",
        "model version device provider precision",
        "Workers that run the version on this execution provider in this precision, and the device that was asked for",
    ),
    ("deepserve_worker_resident_bytes", "gauge", "worker", "Memory that a worker takes"),
    ("deepserve_worker_cpu_seconds", "counter", "worker", "CPU time that a worker has taken since it started"),
    ("deepserve_log_lines_dropped", "counter", "", "Lines of the log that their reader was too slow for"),
    (
        "deepserve_log_lines_left_out",
        "counter",
        "",
        "Log lines about refused requests beyond DEEPSERVE_LOG_REFUSALS_PER_SECOND",
    ),
    (
        "deepserve_drift_rows",
        "counter",
        "model version feature bin",
        "Rows of a sample of the requests, by feature and bin: its upper bound, or missing",
    ),
    (
        "deepserve_drift_expected_share",
        "gauge",
        "model version feature bin",
        "Share of the rows in each bin of a feature in the data that the version was made from",
    ),
    (
        "deepserve_rate_limit_failures",
        "counter",
        "",
        "Requests that passed unchecked because the storage of rate limits failed",
    ),
]
"""Name, type, labels and text of the families that a server has without a GPU."""

PROGRAM = """
import sys
from pathlib import Path
from service.observability import drift, exposition, metrics, series

exposition.share(Path(sys.argv[1]), int(sys.argv[2]))
for family in series.FAMILIES.values():
    if family.name.startswith(("deepserve_gpu", "deepserve_worker")):
        continue
    one = family.labels(*["1"] * len(family.label_names))
    {"counter": lambda: one.inc(), "gauge": lambda: one.set(1), "histogram": lambda: one.observe(1)}[family.type]()
sys.stdout.write(exposition.exposition(exposition.TEXT)[0].decode())
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_names_types_labels_and_buckets_are_those_of_this_list(tmp_path: Path, workers: int) -> None:
    text = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path, str(workers)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    found = {family.name: family for family in parse(text)}
    told = []
    for family in found.values():
        samples = [sample for sample in family.samples if not sample.name.endswith(("_sum", "_count"))]
        labels = {frozenset(sample.labels) - {"le"} for sample in samples}
        told.append((family.name, family.type, labels, family.documentation))
        if family.type == "histogram":
            bounds = tuple(float(sample.labels["le"]) for sample in samples)
            assert bounds == (*BUCKETS.get(family.name, SECONDS), float("inf"))
    expected = [(name, kind, {frozenset(labels.split())}, text) for name, kind, labels, text in FAMILIES]
    assert sorted(told, key=str) == sorted(expected, key=str)


def test_the_runs_of_each_batch_size_are_read_with_their_stages_and_the_time_of_the_last() -> None:
    series = ModelSeries("a-model", "1")
    series.ran(8, (0.25, 1.0, 0.5))
    series.ran(8, (0.25, 1.0, 0.5))
    series.ran(64, (1.0, 2.0, 3.0))
    flush()
    reading = Reading()
    labels = ("a-model", "1")
    assert sorted(reading.last_labels(RUNS, *labels)) == ["64", "8"]
    assert [reading.counter(RUNS, *labels, rows) for rows in ("8", "64", "1")] == [2, 1, 0]
    stages = [reading.counter(RUN_STAGE_SECONDS, *labels, stage, "8") for stage in ("input", "infer", "output")]
    assert stages == [0.5, 2.0, 1.0]
