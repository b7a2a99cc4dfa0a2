"""Build a version of a model: export, prove, write the card, then rename the directory into place.

Everything is written to a hidden directory beside the final one. Until the last act, a rename, neither an existing
version nor a checkpoint is touched, whatever interrupts the build. A version that exists is never overwritten.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx
import torch
from torch import nn

from service.engine.onnx.runtime import ort
from service.engine.session import Runtime
from service.registry import loader
from service.registry.card import FILE_NAME, GOLDEN, GRAPHS, Card, digests
from service.registry.layout import VERSION_NUMBER
from service.registry.verification import verify_files
from service.tensors import Array, Tensors
from training.cards import PAGE, render_page
from training.ledger import describe_use, earlier_uses, graph_digest, ledger_of, record_use
from training.run import Run

OPSET = 18
TOLERANCE = 1e-5
"""Largest difference between a probability of the graph and the same one of torch."""
MIN_GOLDEN_ROWS = 16


class ParityError(Exception):
    """The exported graph and the torch network disagree."""


class OutputError(Exception):
    """The version cannot be written to the requested place."""


def next_free_version(model: Path) -> Path:
    """Return the directory of the version after the newest one in `model`, the folder `models/<name>`."""
    numbers = [int(path.name) for path in model.glob("*") if VERSION_NUMBER.fullmatch(path.name)]
    return model / str(max(numbers, default=0) + 1)


def check_out(out: Path, model: str) -> None:
    """Check, before any training, that the version can be written to `out`, and create its parent directories.

    Raises:
        OutputError: `out` is not like `.../<model>/<number>`, exists already or cannot be created.
    """
    place = out.absolute()
    if place.parent.name != model or not VERSION_NUMBER.fullmatch(place.name):
        raise OutputError(f"--out {out}: a version is written to .../{model}/<number>, as in models/{model}/3")
    if place.exists():
        raise OutputError(f"--out {out} exists; versions are never overwritten. The next free one is the default")
    check_writable(out)


def check_writable(out: Path) -> None:
    """Check that `out` can be created, and create its parent directories.

    Raises:
        OutputError: it cannot.
    """
    parent = out.absolute().parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".writable-", dir=parent):
            pass
    except OSError as error:
        raise OutputError(f"--out {out} cannot be written: {error.strerror}") from error


def _building(out: Path) -> Path:
    return out.parent / f".building-{out.name}"


class VersionBuilder:
    """A context in which a version is built in `directory`; leaving it without `publish` discards the build.

    The temporary path ends in `<name>/<version>` like the final one, so that the card and the service's own
    verification fit it before the rename.
    """

    def __init__(self, out: Path) -> None:
        self.out = out.absolute()
        self.directory = _building(self.out) / self.out.parent.name / self.out.name

    def __enter__(self) -> Self:
        shutil.rmtree(_building(self.out), ignore_errors=True)  # left behind by a killed process
        self.directory.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(_building(self.out), ignore_errors=True)

    def publish(self, card: Card, run: Run) -> Card:
        """Write history, page and card, verify all as the service would, and rename the version into place.

        Args:
            card: complete but for `files` and `test_uses`.
            run: gives the history; its checkpoint is deleted at the end.

        Raises:
            VerificationError: the service would refuse the version.
            OutputError: `out` has come into being meanwhile.
        """
        ledger = ledger_of(run.models_dir, card.name)
        card = card.model_copy(update={"test_uses": earlier_uses(ledger, graph_digest(self.directory))})
        if not run.smoke:
            record_use(ledger, self.directory, describe_use(card))
        lines = "".join(json.dumps(epoch) + "\n" for epoch in run.history)
        (self.directory / "history.jsonl").write_text(lines, encoding="utf-8")
        card = write_card(self.directory, card)
        verify_files(self.directory)
        for precision in card.precisions:
            loader.open_session(self.directory, card, Runtime(precision=precision))
        for path in self.directory.iterdir():
            _flush(path)
        try:
            self.directory.rename(self.out)
        except OSError as error:
            raise OutputError(f"{self.out} cannot be put in place: {error.strerror}") from error
        run.discard_checkpoint()
        return card


def write_card(directory: Path, card: Card) -> Card:
    """Write the card and the page rendered from it to `directory`; the card lists the checksums of all files.

    Both files are complete on disk before either replaces its predecessor.
    """
    page, page_path = directory / f".{PAGE}", directory / PAGE
    files = digests(directory)
    page.write_text(render_page(card.model_copy(update={"files": files})), encoding="utf-8")
    files |= {PAGE: hashlib.sha256(page.read_bytes()).hexdigest()}
    card = card.model_copy(update={"files": dict(sorted(files.items()))})
    scratch = directory / f".{FILE_NAME}"
    scratch.write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")
    page.replace(page_path)
    scratch.replace(directory / FILE_NAME)
    return card


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a scratch path beside `path` that replaces it when the block ends without an exception."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.partial")
    try:
        yield scratch
        _flush(scratch)
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have the file's content on disk before its name appears."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def export_graph(
    network: nn.Module,
    path: Path,
    example: Tensors,
    outputs: Sequence[str],
    dynamic_axes: Mapping[str, Mapping[int, str]],
) -> Path:
    """Export the network, on CPU and in evaluation mode, to one checked ONNX file.

    Args:
        network: takes the tensors of `example` in their order and returns one tensor for each name in `outputs`.
        path: of the file.
        example: inputs of at least two rows.
        outputs: names.
        dynamic_axes: input name to its free dimensions, as in `{"tokens": {0: "batch", 1: "length"}}`.
    """
    axes = {label: torch.export.Dim(label) for free in dynamic_axes.values() for label in free.values()}
    shapes = tuple({axis: axes[label] for axis, label in dynamic_axes[name].items()} for name in example)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns that torchvision is absent
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # raised by torch about its own code
        program = torch.onnx.export(
            network.cpu().eval(),
            tuple(torch.from_numpy(np.asarray(value)) for value in example.values()),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=shapes,
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # source paths of this machine
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def open_session(path: Path) -> ort.InferenceSession:
    """Open the graph on CPU with one thread, as the service does."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def check_parity(network: nn.Module, path: Path, batches: Iterable[Tensors], tolerance: float = TOLERANCE) -> float:
    """Return the largest difference between the graph's and the network's outputs; relative for floats above 1.

    Raises:
        ParityError: the difference is above `tolerance`, or is not a number.
    """
    graph = open_session(path)
    worst = 0.0
    for batch in batches:
        for found, expected in zip(graph.run(None, dict(batch)), run_torch(network, batch), strict=True):
            scale = np.maximum(1, np.abs(expected)) if expected.dtype.kind == "f" else 1
            difference = float((np.abs(found.astype(np.float64) - expected) / scale).max())
            if not difference <= tolerance:
                raise ParityError(f"{path.name} differs from the network by {difference:.2g}, over {tolerance:.2g}")
            worst = max(worst, difference)
    return worst


def run_torch(network: nn.Module, batch: Tensors) -> tuple[Array, ...]:
    """Return the network's outputs on CPU, in evaluation mode."""
    with torch.inference_mode():
        result = network.cpu().eval()(*(torch.from_numpy(np.asarray(value)) for value in batch.values()))
    outputs: tuple[torch.Tensor, ...] = result if isinstance(result, tuple) else (result,)
    return tuple(output.numpy() for output in outputs)


def write_golden(network: nn.Module, directory: Path, inputs: Tensors, outputs: Sequence[str]) -> None:
    """Write the golden cases: real inputs as `in:<name>` and what torch computes from them as `out:<name>`."""
    if len(next(iter(inputs.values()))) < MIN_GOLDEN_ROWS:
        raise ValueError(f"golden cases need at least {MIN_GOLDEN_ROWS} rows")
    arrays: dict[str, Any] = {f"in:{name}": np.asarray(value) for name, value in inputs.items()}
    arrays |= {f"out:{name}": value for name, value in zip(outputs, run_torch(network, inputs), strict=True)}
    np.savez_compressed(directory / GOLDEN, allow_pickle=False, **arrays)


def add_int8_golden(directory: Path) -> None:
    """Add the int8 graph's outputs for the recorded inputs to the golden cases, as `int8:<name>`."""
    with np.load(directory / GOLDEN, allow_pickle=False) as golden:
        arrays: dict[str, Any] = dict(golden)
    inputs = {name.removeprefix("in:"): value for name, value in arrays.items() if name.startswith("in:")}
    session = open_session(directory / GRAPHS["int8"])
    names = [output.name for output in session.get_outputs()]
    arrays |= {f"int8:{name}": value for name, value in zip(names, session.run(names, inputs), strict=True)}
    np.savez_compressed(directory / GOLDEN, allow_pickle=False, **arrays)
