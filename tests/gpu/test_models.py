"""Every model on every device: where its nodes run, that it answers as the CPU does, what it does without memory."""

import gc
import random
import resource
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from service.engine.onnx import cuda as gpu
from service.engine.onnx.runtime import ort
from service.engine.onnx.session import OnnxSession
from service.engine.onnx.shape_buckets import ShapeBuckets
from service.engine.queue import RUN_ELEMENTS
from service.engine.session import OutOfMemoryError, Runtime
from service.errors import Unavailable
from service.observability import gpus
from service.registry.card import Card
from service.registry.loader import open_verified
from service.registry.verification import GOLDEN_TOLERANCE
from service.tensors import Tensors
from tests.gpu.conftest import RUNTIMES
from tests.paths import MODELS

EVERY = sorted(card.parent for card in MODELS.glob("*/*/card.json"))
DIGITS, SENTIMENT = MODELS / "digits" / "2", MODELS / "sentiment" / "2"

ROWS = (1, 2, 3, 7, 8, 31, 64)
LENGTHS = (1, 5, 16, 17, 100, 400, 1000)
"""Of reviews, in tokens."""

each_model = pytest.mark.parametrize("directory", EVERY, ids=lambda directory: "/".join(directory.parts[-2:]))


def opened(directory: Path, runtime: Runtime) -> OnnxSession:
    """A session that runs as on a GPU: at fixed shapes in bound buffers, of the CPU where there is no other."""
    card = Card.read(directory)
    session = OnnxSession(directory, card, runtime)
    if runtime.device == "cpu":
        session._buckets = ShapeBuckets(session._session, card.inputs, card.outputs, memory="cpu")
    return session


def inputs(directory: Path, rows: int, length: int) -> Tensors:
    """The golden cases, over and over; of reviews random words, `length` of them."""
    if directory.parent == SENTIMENT.parent:
        return {"tokens": np.random.default_rng(rows + length).integers(1, 30_000, (rows, length))}
    with np.load(directory / "golden.npz") as golden:
        cases = {name.removeprefix("in:"): golden[name] for name in golden if name.startswith("in:")}
    return {name: np.resize(values, (rows, *values.shape[1:])) for name, values in cases.items()}


def batches(directory: Path) -> Iterator[Tensors]:
    """As many sizes as matter, in an order in which larger and smaller ones take turns in the same buffers."""
    lengths = LENGTHS if directory.parent == SENTIMENT.parent else (0,)
    sizes = [(rows, length) for rows in ROWS for length in lengths if rows == 1 or rows * length <= RUN_ELEMENTS]
    random.Random(0).shuffle(sizes)
    return (inputs(directory, rows, length) for rows, length in sizes)


def assert_alike(found: Tensors, expected: Tensors) -> None:
    """To the tolerance that golden cases have: 1e-4 of floats, of those above 1 as a share of them; a grey level."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        wide = values.astype(np.float64)
        scale = np.maximum(1, np.abs(wide)) if values.dtype.kind == "f" else 1
        assert found[name].shape == values.shape
        assert (np.abs(found[name] - wide) / scale).max() <= GOLDEN_TOLERANCE[values.dtype.kind]


@each_model
def test_golden_cases_come_out(directory: Path, runtime: Runtime) -> None:
    """Once every shape that a run can have is warm."""
    _, session = open_verified(directory, runtime)
    expected = "CPUExecutionProvider" if runtime.device == "cpu" else gpu.PROVIDERS["cuda"]
    assert session.provider == expected


@each_model
def test_every_size_of_run_answers_as_on_the_cpu(directory: Path, runtime: Runtime) -> None:
    reference = OnnxSession(directory, Card.read(directory), RUNTIMES["cpu"])
    session = opened(directory, runtime)
    for batch in batches(directory):
        assert_alike(session.run(batch), reference.run(batch))


@each_model
def test_answers_do_not_depend_on_neighbours(directory: Path, runtime: Runtime) -> None:
    session = opened(directory, runtime)
    crowd = inputs(directory, 40, 100)
    order = np.random.default_rng(0).permutation(40)
    together = session.run(crowd)
    shuffled = session.run({name: values[order] for name, values in crowd.items()})
    assert_alike(shuffled, {name: values[order] for name, values in together.items()})
    for row in range(0, 40, 5):
        alone = session.run({name: values[row : row + 1] for name, values in crowd.items()})
        assert_alike(alone, {name: values[row : row + 1] for name, values in together.items()})


@each_model
def test_work_is_on_the_gpu_and_what_is_not_is_told(
    directory: Path, cuda: Runtime, tell: Callable[[str], None]
) -> None:
    options = ort.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    session = ort.InferenceSession(
        directory / "model.onnx", options, providers=gpu.providers("cuda"), enable_fallback=0
    )
    nodes = [
        (part.ep_name, node.op_type)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
    astray = Counter(operation for provider, operation in nodes if provider != gpu.PROVIDERS[cuda.device])
    listed = ", ".join(f"{count} {operation}" for operation, count in sorted(astray.items()))
    tell(f"{'/'.join(directory.parts[-2:])}: {len(nodes)} nodes, on the CPU {listed or 'none'}")
    assert gpu.nodes_on_cpu(nodes, "cuda") is None


@contextmanager
def little_memory(more: int) -> Iterator[None]:
    """This process may take so many bytes more than it has, and nothing beyond."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_a_run_without_memory_is_refused_and_smaller_ones_are_answered(runtime: Runtime) -> None:
    """Nothing but the limit keeps the large one from being answered: its first maps take a gigabyte."""
    session, small = opened(DIGITS, replace(runtime, gpu_memory_mib=256)), inputs(DIGITS, 32, 0)
    expected = session.run(small)
    with little_memory(200 * 2**20) if runtime.device == "cpu" else nullcontext():
        with pytest.raises(OutOfMemoryError) as refusal:
            session.run({"pictures": np.zeros((20_000, 28, 28), np.uint8)})
        assert_alike(session.run(small), expected)
    assert isinstance(refusal.value, Unavailable)
    assert_alike(session.run(small), expected)


def taken(runtime: Runtime) -> tuple[int, int]:
    """Bytes of this process, and of all GPUs."""
    gc.collect()
    used = sum(each.used for each in gpus.found()) if runtime.device == "cuda" else 0
    return psutil.Process().memory_info().rss, used


def test_memory_stays_flat(runtime: Runtime, tell: Callable[[str], None]) -> None:
    """Over 10,000 batches of all sizes and models, mixed; of 500 on the CPU."""
    sessions = {directory: opened(directory, runtime) for directory in EVERY}
    work = [
        (sessions[directory], inputs(directory, rows, length))
        for directory in EVERY
        for rows in (1, 3, 20, 64)
        for length in ((20, 60) if directory == SENTIMENT else (0,))
    ]
    for session, batch in work * 4:
        session.run(batch)
    before = taken(runtime)
    chosen = random.Random(0).choices(work, k=10_000 if runtime.device == "cuda" else 500)
    for session, batch in chosen:
        session.run(batch)
    after = taken(runtime)
    resident, on_gpu = ((late - early) / 2**20 for early, late in zip(before, after, strict=True))
    tell(f"after {len(chosen)} mixed batches: {resident:+.1f} MiB of memory, {on_gpu:+.1f} MiB on the GPU")
    assert resident < 16
    assert on_gpu < 4
