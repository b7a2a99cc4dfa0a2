"""Sessions of ONNX Runtime: devices, time limits, errors, and shape buckets (here in the memory of the CPU)."""

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.onnx import cuda
from service.engine.onnx.runtime import ort
from service.engine.onnx.session import open_session
from service.engine.onnx.shape_buckets import BATCH, MIN_LENGTH, ShapeBuckets, padded_size
from service.engine.session import Runtime, RunTimeoutError, Session, SessionError
from service.registry.card import Card
from service.settings import Settings
from tests.paths import MODELS

DIGITS = MODELS / "digits" / "2"
FASHION = MODELS / "fashion" / "1"
SENTIMENT = MODELS / "sentiment" / "2"
EVERY = sorted(card.parent for card in MODELS.glob("*/*/card.json"))

CPU = Runtime(precision="float32")


def examples(directory: Path) -> dict[str, Any]:
    """Valid inputs: the golden cases."""
    with np.load(directory / "golden.npz") as golden:
        return {name.removeprefix("in:"): golden[name] for name in golden if name.startswith("in:")}


def graph(directory: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return ort.InferenceSession(directory / "model.onnx", options, providers=["CPUExecutionProvider"])


class CountingSession:
    """A real session that counts how many shapes are bound to it."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.shapes = 0
        self.io_binding_of = session.io_binding
        self.run_with_iobinding = session.run_with_iobinding

    def io_binding(self) -> ort.IOBinding:
        self.shapes += 1
        return self.io_binding_of()


@pytest.mark.parametrize("directory", EVERY, ids=lambda directory: "/".join(directory.parts[-2:]))
def test_shape_buckets_give_the_same_outputs_as_any_shape(directory: Path) -> None:
    """Larger and smaller inputs alternate in each bucket, so that old contents of its buffers would show."""
    card = Card.read(directory)
    session, inputs = open_session(directory, card, CPU), examples(directory)
    shapes = ShapeBuckets(graph(directory), card.inputs, card.outputs, memory="cpu")
    turns = [(8, 16), (7, 3), (1, 1024), (1, 700), (4, 64), (3, 33), (8, 9), (1, 900), (5, 16)]
    cases = [{name: value[:rows] for name, value in inputs.items()} for rows, _ in turns]
    if directory == SENTIMENT:
        cases = [{"tokens": inputs["tokens"][-rows:, :length]} for rows, length in turns]
    found = [shapes.run(case) for case in cases]
    for case, outputs in zip(cases, found, strict=True):
        for name, expected in session.run(case).items():
            assert outputs[name].shape == expected.shape
            np.testing.assert_allclose(
                outputs[name], expected, rtol=1e-4, atol=1 if expected.dtype == np.uint8 else 1e-5
            )


def test_warm_up_binds_every_shape_that_requests_can_have() -> None:
    card, session = Card.read(DIGITS), CountingSession(graph(DIGITS))
    shapes = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu")
    shapes.warm_up(24, 16, examples(DIGITS))  # pictures are no sequences
    assert session.shapes == 6  # 1, 2, 4, 8, 16, 32
    for rows in range(1, 25):
        shapes.run({"pictures": np.zeros((rows, 28, 28), np.uint8)})
    assert session.shapes == 6


def test_warm_up_binds_every_length_up_to_the_longest() -> None:
    card, session = Card.read(SENTIMENT), CountingSession(graph(SENTIMENT))
    shapes = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu")
    shapes.warm_up(2, 4096, {"tokens": examples(SENTIMENT)["tokens"][:, :60]})
    assert session.shapes == 2 * 3  # 1 and 2 rows of 16, 32 and 64
    for length in range(1, 65, 7):
        shapes.run({"tokens": np.ones((2, length), np.int64)})
    assert session.shapes == 2 * 3


def test_warm_up_leaves_out_shapes_that_no_run_can_have() -> None:
    card, session = Card.read(SENTIMENT), CountingSession(graph(SENTIMENT))
    shapes = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu")
    shapes.warm_up(8, 64, {"tokens": examples(SENTIMENT)["tokens"][:, :60]})
    assert session.shapes == 3 + 2 + 2 + 1  # of the 3 lengths, for 1, 2, 4 and 8 rows
    for rows in range(1, 9):
        for length in range(1, 61 if rows == 1 else 64 // rows + 1):
            shapes.run({"tokens": np.ones((rows, length), np.int64)})
    assert session.shapes == 3 + 2 + 2 + 1


@given(size=st.integers(1, 100_000), name=st.sampled_from([BATCH, "length"]))
def test_padded_size_is_a_power_of_two_and_at_most_twice_the_size(size: int, name: str) -> None:
    padded = padded_size(name, size)
    assert size <= padded <= max(2 * size - 1, MIN_LENGTH if name != BATCH else 1)
    assert padded == padded_size(name, padded)
    assert padded.bit_count() == 1


def test_sixty_four_rows_are_seven_shapes() -> None:
    assert {padded_size(BATCH, rows) for rows in range(1, 65)} == {1, 2, 4, 8, 16, 32, 64}


@settings(max_examples=20, deadline=None)
@given(turns=st.lists(st.integers(1, 32), min_size=2, max_size=12))
def test_concurrent_runs_in_shape_buckets_do_not_mix(turns: list[int]) -> None:
    card, inputs = Card.read(DIGITS), examples(DIGITS)["pictures"]
    expected = open_session(DIGITS, card, CPU).run({"pictures": inputs})["probabilities"]
    shapes = ShapeBuckets(graph(DIGITS), card.inputs, card.outputs, memory="cpu")
    with ThreadPoolExecutor(4) as threads:
        for rows, outputs in zip(
            turns, threads.map(lambda n: shapes.run({"pictures": inputs[:n]}), turns), strict=True
        ):
            np.testing.assert_allclose(outputs["probabilities"], expected[:rows], atol=1e-5)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_device_works_or_the_session_says_why_not(device: cuda.GPU) -> None:
    reason = cuda.unavailable_reason(device)
    if reason is None:
        assert open_session(DIGITS, Card.read(DIGITS), Runtime(device)).provider == cuda.PROVIDERS[device]
        return
    if cuda.PROVIDERS[device] not in ort.get_available_providers():
        assert "install deepserve[gpu]" in reason
    with pytest.raises(SessionError) as refusal:
        open_session(DIGITS, Card.read(DIGITS), Runtime(device))
    assert device in str(refusal.value)
    assert reason in str(refusal.value)


def test_auto_uses_cuda_if_it_works_and_logs_why_it_does_not(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = open_session(DIGITS, Card.read(DIGITS), Runtime("auto"))
    reason = cuda.unavailable_reason("cuda")
    assert session.provider == ("CPUExecutionProvider" if reason else cuda.PROVIDERS["cuda"])
    assert [reason in message for message in caplog.messages] == ([True] if reason else [])
    assert session.run(examples(DIGITS))["probabilities"].shape == (32, 10)


def test_computation_on_the_cpu_is_found_and_shape_operations_are_ignored() -> None:
    """Use the operations that ONNX Runtime lists for a real graph, and pretend that some run on a GPU."""
    nodes = [
        (part.ep_name, node.op_type)
        for part in graph(SENTIMENT).get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    assert cuda.nodes_on_cpu(nodes, "cuda") == "none of it runs on cuda"
    shapes = {"Shape", "Gather", "Concat", "Range", "Squeeze"}
    mixed = [(place if operation in shapes else cuda.PROVIDERS["cuda"], operation) for place, operation in nodes]
    assert cuda.nodes_on_cpu(mixed, "cuda") is None
    recurrent = [(place if operation == "LSTM" else cuda.PROVIDERS["cuda"], operation) for place, operation in nodes]
    assert "LSTM" in str(cuda.nodes_on_cpu(recurrent, "cuda"))
    both = [(cuda.PROVIDERS["tensorrt" if operation == "LSTM" else "cuda"], operation) for _, operation in nodes]
    assert cuda.nodes_on_cpu(both, "tensorrt") is None


def test_failing_run_is_a_session_error() -> None:
    session = open_session(DIGITS, Card.read(DIGITS), CPU)
    with pytest.raises(SessionError, match="run failed"):
        session.run({"pictures": np.zeros((1, 27, 28), np.uint8)})
    assert session.run(examples(DIGITS))["probabilities"].shape == (32, 10)


def test_bucket_whose_run_fails_is_freed() -> None:
    card, session = Card.read(FASHION), CountingSession(graph(FASHION))
    shapes, inputs = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu"), examples(FASHION)
    expected = shapes.run(inputs)["picture"]
    with pytest.raises(RuntimeError, match="out of data bounds"):
        shapes.run({**inputs, "label": inputs["label"] + 99})
    np.testing.assert_array_equal(shapes.run(inputs)["picture"], expected)
    assert session.shapes == 2


def test_session_runs_in_several_threads_at_once() -> None:
    session, inputs = open_session(DIGITS, Card.read(DIGITS), CPU), examples(DIGITS)
    expected = session.run(inputs)["probabilities"]
    with ThreadPoolExecutor(4) as threads:
        for outputs in threads.map(session.run, [inputs] * 16):
            np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)


def test_session_describes_itself() -> None:
    session: Session = open_session(DIGITS, Card.read(DIGITS), Runtime())
    assert (session.provider, session.on_gpu, session.precision) == ("CPUExecutionProvider", False, "int8")
    assert open_session(DIGITS, Card.read(DIGITS), CPU).precision == "float32"


def test_run_beyond_its_time_limit_is_cancelled_and_later_runs_are_not() -> None:
    session = open_session(DIGITS, Card.read(DIGITS), CPU)
    many = {"pictures": np.zeros((2000, 28, 28), np.uint8)}
    started = time.perf_counter()
    with pytest.raises(RunTimeoutError):
        session.run(many, time_limit_seconds=0.01)
    cancelled = time.perf_counter() - started
    started = time.perf_counter()
    assert len(session.run(many, time_limit_seconds=60)["probabilities"]) == 2000
    assert cancelled < time.perf_counter() - started


def test_runtime_is_that_of_the_settings() -> None:
    chosen = Settings(
        device="auto", precision="float32", threads=3, max_batch_rows=5, gpu_memory_mib=7, cuda_graphs=True
    )
    expected = Runtime("auto", "float32", threads=3, max_batch_rows=5, gpu_memory_mib=7, cuda_graphs=True)
    assert Runtime.from_settings(chosen) == expected
