"""What is told of the runs of each batch size, of living workers and of dead ones."""

import time

import pytest
from prometheus_client import Metric

from service.observability.batches import Batches, BatchSize
from service.observability.board import BOARD
from service.observability.ledger import Row

RUNS = Batches("runs_of_the_test_seconds", "Runs", ("model", "version", "rows"))

OF_OTHERS: list[Row] = [("lines", (), [1.0]), ("rows", ("m", "1"), [1.0, 2.0])]
LIVING: Row = (RUNS.name, ("m", "1", "16"), [2.0, 1.0, 4.0, 0.5, 1000.0])
ANOTHER: Row = (RUNS.name, ("m", "1", "16"), [1.0, 1.0, 1.0, 1.0, 2000.0])
DEAD: Row = (RUNS.name, ("m", "1", "2"), [3.0, 1.0, 2.0, 3.0])
OF_ANOTHER_VERSION: Row = (RUNS.name, ("m", "2", "2"), [1.0, 0.0, 1.0, 0.0, 500.0])


def test_workers_add_up_by_size_and_the_latest_run_is_told() -> None:
    sizes = RUNS.sizes([*OF_OTHERS, LIVING, ANOTHER, DEAD, OF_ANOTHER_VERSION])
    assert sizes == {
        ("m", "1"): {2: BatchSize(3, (1.0, 2.0, 3.0), 0.0), 16: BatchSize(3, (2.0, 5.0, 1.5), 2000.0)},
        ("m", "2"): {2: BatchSize(1, (0.0, 1.0, 0.0), 500.0)},
    }
    assert list(sizes["m", "1"]) == [2, 16]
    assert RUNS.sizes(OF_OTHERS) == {}


def test_prometheus_gets_the_stages_over_all_sizes() -> None:
    metric: Metric = RUNS.metric({LIVING[1]: [LIVING[2], ANOTHER[2]], DEAD[1]: [DEAD[2]]})
    found = {(sample.labels["version"], sample.labels["stage"]): sample.value for sample in metric.samples}
    assert found == {("1", "input"): 3.0, ("1", "infer"): 7.0, ("1", "output"): 4.5}
    assert metric.type == "counter"


def test_a_run_is_counted_with_its_stages_and_its_time() -> None:
    before = time.time()
    runs = RUNS.labels("m", "3", "8")
    runs.add(0.25, 1.0, 0.5)
    runs.add(0.25, 1.0, 0.5)
    size = RUNS.sizes(BOARD.read().rows)["m", "3"][8]
    assert (size.runs, size.seconds) == (2, (0.5, 2.0, 1.0))
    assert before <= size.last_run <= time.time()
    with pytest.raises(ValueError, match="labels"):
        RUNS.labels("m", "3")
