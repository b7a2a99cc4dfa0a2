"""From torch to a model directory: the ONNX graph, proof that it says what torch says, golden cases and the card."""

import logging
import shutil
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

from service.engine.onnx.runtime import ort
from service.registry.card import FILE_NAME, Card, DataSource, Distribution, Figure, Int8, Training, digests
from service.tensors import Array, Tensors, TensorSpec

OPSET = 18
TOLERANCE = 1e-5
"""Largest difference between a probability of the graph and the same one of torch."""


class ParityError(Exception):
    """The exported graph does not say what the network says."""


def start(directory: Path) -> Path:
    """An empty model directory; the version that was there is gone.

    Raises:
        FileExistsError: what is there is no version of a model.
    """
    if directory.exists() and any(directory.iterdir()) and not (directory / FILE_NAME).exists():
        raise FileExistsError(f"{directory} holds something else than a version of a model")
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def write_graph(
    network: nn.Module,
    directory: Path,
    example: Tensors,
    outputs: tuple[str, ...],
    free: Mapping[str, Mapping[int, str]],
) -> Path:
    """Exports the network, on CPU and in evaluation mode, to `directory/model.onnx`: one file, checked.

    Args:
        network: takes the tensors of `example` in their order, returns one tensor per name in `outputs`.
        example: inputs of some size, at least two rows.
        free: input name to its free dimensions, as in `{"tokens": {0: "batch", 1: "length"}}`.
    """
    path = directory / "model.onnx"
    dimensions = {name: {axis: torch.export.Dim(label) for axis, label in axes.items()} for name, axes in free.items()}
    shared: dict[str, torch.export.Dim] = {}
    for axes in dimensions.values():
        for axis, dimension in axes.items():
            axes[axis] = shared.setdefault(dimension.__name__, dimension)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns of torchvision, which nothing here uses
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch, about torch
        program = torch.onnx.export(
            network.cpu().eval(),
            tuple(torch.from_numpy(np.asarray(value)) for value in example.values()),
            input_names=list(example),
            output_names=list(outputs),
            dynamic_shapes=tuple(dimensions[name] for name in example),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # where in whose files torch found it
    program.save(path, external_data=False)
    onnx.checker.check_model(str(path), full_check=True)
    return path


def session(path: Path) -> ort.InferenceSession:
    """ONNX Runtime on CPU."""
    return ort.InferenceSession(path, providers=["CPUExecutionProvider"])


def check_parity(network: nn.Module, path: Path, batches: Iterable[Tensors], tolerance: float = TOLERANCE) -> float:
    """The largest difference between outputs of the graph and of the network; of floats above 1, as a share of them.

    Raises:
        ParityError: it is above the tolerance.
    """
    graph = session(path)
    worst = 0.0
    for batch in batches:
        said = run_torch(network, batch)
        for found, expected in zip(graph.run(None, dict(batch)), said, strict=True):
            scale = np.maximum(1, np.abs(expected)) if expected.dtype.kind == "f" else 1
            worst = max(worst, float((np.abs(found.astype(np.float64) - expected) / scale).max()))
    if worst > tolerance:
        raise ParityError(f"{path} differs from the network by {worst:.2g}, more than {tolerance:.2g}")
    return worst


def run_torch(network: nn.Module, batch: Tensors) -> tuple[Array, ...]:
    """The network's outputs on CPU, in evaluation mode."""
    with torch.inference_mode():
        result = network.cpu().eval()(*(torch.from_numpy(np.asarray(value)) for value in batch.values()))
    outputs: tuple[torch.Tensor, ...] = result if isinstance(result, tuple) else (result,)
    return tuple(output.numpy() for output in outputs)


def write_golden(network: nn.Module, directory: Path, inputs: Tensors, outputs: tuple[str, ...]) -> None:
    """Writes `golden.npz`: real cases (at least 16 rows) and what torch says of them, `in:<name>` and `out:<name>`."""
    if len(next(iter(inputs.values()))) < 16:
        raise ValueError("golden cases need at least 16 rows")
    given = {f"in:{name}": np.asarray(value) for name, value in inputs.items()}
    said = {f"out:{name}": value for name, value in zip(outputs, run_torch(network, inputs), strict=True)}
    np.savez_compressed(directory / "golden.npz", allow_pickle=False, **given, **said)


def write_card(
    directory: Path,
    *,
    title: str,
    task: str,
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    classes: tuple[str, ...],
    figures: dict[str, Figure],
    int8: Int8 | None = None,
    distributions: Mapping[str, Distribution],
    data: tuple[DataSource, ...],
    training: Training,
    intended_use: str,
    limits: tuple[str, ...],
) -> Card:
    """Writes the card of `models/<name>/<version>`, last of all: it holds the checksum of every other file."""
    (directory / FILE_NAME).unlink(missing_ok=True)
    card = Card(
        name=directory.parent.name,
        version=directory.name,
        title=title,
        task=task,
        inputs=inputs,
        outputs=outputs,
        classes=classes,
        figures=figures,
        int8=int8,
        distributions=dict(distributions),
        data=data,
        training=training,
        intended_use=intended_use,
        limits=limits,
        files=digests(directory),
    )
    card.write(directory)
    return card
