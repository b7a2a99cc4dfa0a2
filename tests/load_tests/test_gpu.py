"""The benchmark of a GPU, run on the CPU at small size: the same ways, the same tables, and what it counts."""

import json
from pathlib import Path

import numpy as np
import pytest

from load_tests.gpu.__main__ import main
from load_tests.gpu.floor import Peaks, Work, work
from load_tests.gpu.models import Model, models
from load_tests.gpu.ways import ways
from training.digits.model import Convolutional, fold, multiply_adds

WAYS = ["onnxruntime", "onnxruntime, bound", "torch, eager"]


def model(name: str) -> Model:
    [found] = models([name])
    return found


def test_it_times_each_way_beside_the_floor_and_asks_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["--device", "cpu", "--quick", "--models", "mammogram/1", "digits/2", "--ways", *WAYS, "--out", str(tmp_path)])
    found = json.loads((tmp_path / "bench_gpu.json").read_text())
    assert [standing["model"] for standing in found["models"]] == ["digits/2", "mammogram/1"]
    for standing in found["models"]:
        assert not standing["failures"]
        assert list(standing["timings"]) == WAYS
        for timings in standing["timings"].values():
            for timing, floor in zip(timings, standing["floors"], strict=True):
                assert timing["rows"] == floor["rows"]
                assert timing["p99_us"] >= timing["p50_us"] > 0
                assert floor["us"]["float32"] > 0
    assert {(served["workers"], served["rows"]) for served in found["service"]} == {(1, 8)}
    assert all(served["rows_per_second"] > 0 and 0 < served["running"] < 1.05 for served in found["service"])
    printed = capsys.readouterr().out
    assert "| torch, eager |" in printed
    assert "| the floor in float32, by " in printed
    assert (tmp_path / "bench_gpu.png").stat().st_size > 10_000


def test_without_a_gpu_it_refuses() -> None:
    with pytest.raises(SystemExit, match="cuda does not work"):
        main(["--parts", "models", "--models", "digits/1", "--rows", "1", "--ways", "none of them"])


@pytest.mark.parametrize("name", [each.name for each in models()])
def test_every_network_in_torch_takes_and_gives_what_its_graph_does(name: str) -> None:
    subject, taken = model(name), model(name).inputs(3)
    eager = next(way for way in ways("cpu") if way.title == "torch, eager").open(subject, "cpu")
    bound = next(way for way in ways("cpu") if way.title == "onnxruntime, bound").open(subject, "cpu")
    graph = bound(taken)
    assert isinstance(graph, dict)
    for said, spec in zip(eager(taken), subject.card.outputs, strict=True):
        assert said.shape == graph[spec.name].shape
        assert said.dtype == graph[spec.name].dtype


def test_the_work_that_is_counted_is_the_networks() -> None:
    digits = model("digits/2")
    one, eight = (work(digits, digits.inputs(rows)) for rows in (1, 8))
    assert one.flops == pytest.approx(2 * multiply_adds(fold(Convolutional(0.3))))
    assert eight.flops == 8 * one.flops
    weights = sum(p.numel() for p in fold(Convolutional(0.3)).parameters()) * 4
    assert weights + 784 + 40 == pytest.approx(one.bytes, abs=64)


def test_only_what_is_taken_from_a_table_is_moved() -> None:
    sentiment = model("sentiment/2")
    tables = sum(file.stat().st_size for file in sentiment.directory.glob("*.bin"))
    assert work(sentiment, sentiment.inputs(1)).bytes < tables / 3


def test_the_floor_is_what_takes_longer() -> None:
    peaks = Peaks(1e9, {"float32": 1e12})
    assert peaks.floor(Work(1e9, 1e9, 1), "float32") == (1.0, "memory")
    assert peaks.floor(Work(1e12, 1e6, 1), "float32") == (1.0, "arithmetic")
    assert np.isfinite(peaks.floor(Work(0, 0, 1), "float32")[0])
