"""Sessions: a device that works or says why not, and runs at fixed shapes that answer as runs at any shape do.

What a GPU alone can show needs one; the rest of its path runs here in the memory of the CPU.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.engine.onnx import cuda as gpu
from service.engine.onnx.runtime import ort
from service.engine.onnx.session import open_session
from service.engine.onnx.shape_buckets import BATCH, MIN_LENGTH, ShapeBuckets, padded_size
from service.engine.session import Runtime, SessionError
from service.registry.card import Card
from tests.places import MODELS

DIGITS = MODELS / "digits" / "2"
FASHION = MODELS / "fashion" / "1"
SENTIMENT = MODELS / "sentiment" / "1"
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
def test_fixed_shapes_answer_as_any_shape_does(directory: Path) -> None:
    """Whatever was in the buffers before: larger inputs and smaller ones take turns in each of them."""
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


def test_warming_binds_every_shape_that_requests_can_have() -> None:
    card, session = Card.read(DIGITS), CountingSession(graph(DIGITS))
    shapes = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu")
    shapes.warm_up(24, 16, examples(DIGITS))  # pictures are no sequences
    assert session.shapes == 6  # 1, 2, 4, 8, 16, 32
    for rows in range(1, 25):
        shapes.run({"pictures": np.zeros((rows, 28, 28), np.uint8)})
    assert session.shapes == 6


def test_warming_binds_every_length_up_to_the_longest() -> None:
    card, session = Card.read(SENTIMENT), CountingSession(graph(SENTIMENT))
    shapes = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu")
    shapes.warm_up(2, 4096, {"tokens": examples(SENTIMENT)["tokens"][:, :60]})
    assert session.shapes == 2 * 3  # 1 and 2 rows of 16, 32 and 64
    for length in range(1, 65, 7):
        shapes.run({"tokens": np.ones((2, length), np.int64)})
    assert session.shapes == 2 * 3


def test_warming_leaves_out_what_no_run_is_large_enough_for() -> None:
    card, session = Card.read(SENTIMENT), CountingSession(graph(SENTIMENT))
    shapes = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu")
    shapes.warm_up(8, 64, {"tokens": examples(SENTIMENT)["tokens"][:, :60]})
    assert session.shapes == 3 + 2 + 2 + 1  # of the 3 lengths, for 1, 2, 4 and 8 rows
    for rows in range(1, 9):
        for length in range(1, 61 if rows == 1 else 64 // rows + 1):
            shapes.run({"tokens": np.ones((rows, length), np.int64)})
    assert session.shapes == 3 + 2 + 2 + 1


@given(size=st.integers(1, 100_000), name=st.sampled_from([BATCH, "length"]))
def test_a_padded_size_holds_the_size_and_little_more(size: int, name: str) -> None:
    padded = padded_size(name, size)
    assert size <= padded <= max(2 * size - 1, MIN_LENGTH if name != BATCH else 1)
    assert padded == padded_size(name, padded)
    assert padded.bit_count() == 1


def test_sixty_four_rows_are_seven_shapes() -> None:
    assert {padded_size(BATCH, rows) for rows in range(1, 65)} == {1, 2, 4, 8, 16, 32, 64}


@settings(max_examples=20, deadline=None)
@given(turns=st.lists(st.integers(1, 32), min_size=2, max_size=12))
def test_requests_of_several_threads_do_not_mix(turns: list[int]) -> None:
    card, inputs = Card.read(DIGITS), examples(DIGITS)["pictures"]
    expected = open_session(DIGITS, card, CPU).run({"pictures": inputs})["probabilities"]
    shapes = ShapeBuckets(graph(DIGITS), card.inputs, card.outputs, memory="cpu")
    with ThreadPoolExecutor(4) as threads:
        for rows, outputs in zip(
            turns, threads.map(lambda n: shapes.run({"pictures": inputs[:n]}), turns), strict=True
        ):
            np.testing.assert_allclose(outputs["probabilities"], expected[:rows], atol=1e-5)


@pytest.mark.parametrize("device", ["cuda", "tensorrt"])
def test_a_device_works_or_the_session_says_why_not(device: gpu.GPU) -> None:
    trouble = gpu.unavailable_reason(device)
    if trouble is None:
        assert open_session(DIGITS, Card.read(DIGITS), Runtime(device)).provider == gpu.PROVIDERS[device]
        return
    if gpu.PROVIDERS[device] not in ort.get_available_providers():
        assert "install deepserve[gpu]" in trouble
    with pytest.raises(SessionError) as refusal:
        open_session(DIGITS, Card.read(DIGITS), Runtime(device))
    assert device in str(refusal.value)
    assert trouble in str(refusal.value)


def test_auto_runs_on_what_works_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        session = open_session(DIGITS, Card.read(DIGITS), Runtime("auto"))
    trouble = gpu.unavailable_reason("cuda")
    assert session.provider == ("CPUExecutionProvider" if trouble else gpu.PROVIDERS["cuda"])
    assert [trouble in message for message in caplog.messages] == ([True] if trouble else [])
    assert session.run(examples(DIGITS))["probabilities"].shape == (32, 10)


def test_work_on_the_cpu_is_found_and_shapes_there_are_not() -> None:
    """By the operations that ONNX Runtime really lists, as if some of them ran on a GPU."""
    nodes = [
        (part.ep_name, node.op_type)
        for part in graph(SENTIMENT).get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    assert gpu.nodes_on_cpu(nodes, "cuda") == "none of it runs on cuda"
    shapes = {"Shape", "Gather", "Concat", "Range", "Squeeze"}
    mixed = [(place if operation in shapes else gpu.PROVIDERS["cuda"], operation) for place, operation in nodes]
    assert gpu.nodes_on_cpu(mixed, "cuda") is None
    recurrent = [(place if operation == "LSTM" else gpu.PROVIDERS["cuda"], operation) for place, operation in nodes]
    assert "LSTM" in str(gpu.nodes_on_cpu(recurrent, "cuda"))
    both = [(gpu.PROVIDERS["tensorrt" if operation == "LSTM" else "cuda"], operation) for _, operation in nodes]
    assert gpu.nodes_on_cpu(both, "tensorrt") is None


def test_a_failing_run_is_an_error_of_the_session() -> None:
    session = open_session(DIGITS, Card.read(DIGITS), CPU)
    with pytest.raises(SessionError, match="run failed"):
        session.run({"pictures": np.zeros((1, 27, 28), np.uint8)})
    assert session.run(examples(DIGITS))["probabilities"].shape == (32, 10)


def test_a_shape_whose_run_fails_keeps_no_buffers() -> None:
    card, session = Card.read(FASHION), CountingSession(graph(FASHION))
    shapes, inputs = ShapeBuckets(session, card.inputs, card.outputs, memory="cpu"), examples(FASHION)
    expected = shapes.run(inputs)["picture"]
    with pytest.raises(RuntimeError, match="out of data bounds"):
        shapes.run({**inputs, "label": inputs["label"] + 99})
    np.testing.assert_array_equal(shapes.run(inputs)["picture"], expected)
    assert session.shapes == 2


def test_a_run_may_be_asked_for_by_several_threads_at_once() -> None:
    session, inputs = open_session(DIGITS, Card.read(DIGITS), CPU), examples(DIGITS)
    expected = session.run(inputs)["probabilities"]
    with ThreadPoolExecutor(4) as threads:
        for outputs in threads.map(session.run, [inputs] * 16):
            np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-6)
