"""What `/metrics` exposes is an interface of dashboards, alerts and autoscalers: it does not change by accident."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse

from service.observability.exposition import Reading
from service.observability.metrics import RUN_STAGE_SECONDS, RUNS, ModelSeries
from service.observability.series import flush
from tests.places import ROOT

SECONDS = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
BUCKETS = {
    "deepserve_run_rows": (1, 2, 4, 8, 16, 32, 64, 128),
    "deepserve_shadow_difference": (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 10, 100),
}
"""Of the histograms that are not of seconds."""

FAMILIES = [
    ("deepserve_requests", "counter", "route model version outcome"),
    ("deepserve_request_seconds", "histogram", "route model version"),
    ("deepserve_decode_seconds", "histogram", "model version"),
    ("deepserve_encode_seconds", "histogram", "model version"),
    ("deepserve_queue_seconds", "histogram", "model version"),
    ("deepserve_run_seconds", "histogram", "model version"),
    ("deepserve_run_stage_seconds", "counter", "model version stage"),
    ("deepserve_run_rows", "histogram", "model version"),
    ("deepserve_model_requests", "counter", "model version outcome"),
    ("deepserve_model_request_seconds", "counter", "model version outcome"),
    ("deepserve_queue_rows", "gauge", "model version"),
    ("deepserve_queue_limit_rows", "gauge", "model version"),
    ("deepserve_cache_requests", "counter", "model version outcome"),
    ("deepserve_cache_seconds", "counter", "model version outcome"),
    ("deepserve_cache_bytes", "gauge", "model"),
    ("deepserve_cache_evictions", "counter", "model"),
    ("deepserve_shadow_rows", "counter", "model version shadow outcome"),
    ("deepserve_shadow_difference", "histogram", "model version shadow"),
    ("deepserve_model_loads", "counter", "model outcome"),
    ("deepserve_model_ready", "gauge", "model version"),
    ("deepserve_model_files_missing", "gauge", "model version"),
    ("deepserve_model_provider", "gauge", "model version device provider precision"),
    ("deepserve_worker_resident_bytes", "gauge", "worker"),
    ("deepserve_worker_cpu_seconds", "counter", "worker"),
    ("deepserve_log_lines_dropped", "counter", ""),
    ("deepserve_log_lines_left_out", "counter", ""),
    ("deepserve_drift_rows", "counter", "model version feature bin"),
    ("deepserve_drift_expected_share", "gauge", "model version feature bin"),
    ("deepserve_rate_limit_failures", "counter", ""),
]
"""Name, type and labels, of those that a server has without a GPU."""

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
        told.append((family.name, family.type, labels))
        assert family.documentation
        if family.type == "histogram":
            bounds = tuple(float(sample.labels["le"]) for sample in samples)
            assert bounds == (*BUCKETS.get(family.name, SECONDS), float("inf"))
    expected = [(name, kind, {frozenset(labels.split())}) for name, kind, labels in FAMILIES]
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
