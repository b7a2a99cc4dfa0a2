"""The convolutional network that is committed, from its graph, and the training that made it."""

from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import numpy_helper

from service.engine.onnx.runtime import ort
from service.engine.session import Precision
from service.registry.card import GRAPHS, Card, digests
from service.tasks.images import read_grey
from tests.paths import MODELS
from training import version
from training.data.images import MNIST, Pictures, load_images
from training.digits import clutter, photographs, pictures_read
from training.digits.augment import augment
from training.digits.clutter import KINDS
from training.digits.evaluate import CLASSES
from training.digits.model import Convolutional, fold, multiply_adds
from training.digits.sheets import png
from training.digits.train import Hyperparameters
from training.loop import averaged

MODEL, BASELINE = (MODELS / "digits" / version for version in ("2", "1"))


@pytest.fixture(scope="module", params=GRAPHS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return cast(Precision, request.param)


@pytest.fixture(scope="module")
def graph(precision: Precision) -> ort.InferenceSession:
    return version.open_session(MODEL / GRAPHS[precision])


@pytest.fixture(scope="module")
def test_pictures() -> Pictures:
    return load_images(MNIST)[1]


def probabilities(graph: ort.InferenceSession, pictures: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    (found,) = graph.run(None, {"pictures": pictures})
    assert isinstance(found, np.ndarray)
    return found


def test_the_card_meets_the_bars() -> None:
    figures = Card.read(MODEL).figures
    assert figures["accuracy"].value >= 0.996
    assert figures["photograph_accuracy"].value >= 0.985
    assert figures["multiply_adds"].value <= 5.3e6
    assert figures["calibration_error"].value <= 0.01
    for name in ("accuracy", "log_loss", "photograph_accuracy"):
        low, high = figures[name].low, figures[name].high
        assert low is not None
        assert high is not None
        assert low <= figures[name].value <= high


def test_it_is_better_than_the_perceptron() -> None:
    assert Card.read(MODEL).figures["accuracy"].low > Card.read(BASELINE).figures["accuracy"].high


def test_the_card_describes_the_directory() -> None:
    card = Card.read(MODEL)
    assert card.files == digests(MODEL)
    assert card.classes == CLASSES
    (pictures,), (answer,) = card.inputs, card.outputs
    assert (pictures.dtype, pictures.shape) == ("uint8", ("batch", 28, 28))
    assert (answer.dtype, answer.shape) == ("float32", ("batch", 10))


def test_the_graph_is_one_file_of_a_recent_opset_without_batch_norm() -> None:
    model = onnx.load(MODEL / "model.onnx", load_external_data=False)
    assert model.opset_import[0].version >= 17
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    assert b".py" not in (MODEL / "model.onnx").read_bytes()


def test_golden_cases_are_test_pictures_and_come_out_as_in_training(
    graph: ort.InferenceSession, precision: Precision, test_pictures: Pictures
) -> None:
    golden = np.load(MODEL / "golden.npz")
    recorded = {"float32": "out:probabilities", "int8": "int8:probabilities"}
    pictures, expected = golden["in:pictures"], golden[recorded[precision]]
    assert len(pictures) >= 16
    assert np.array_equal(pictures, test_pictures.pictures[: len(pictures)])
    np.testing.assert_allclose(probabilities(graph, pictures), expected, rtol=0, atol=1e-5)


def test_the_figure_on_the_card_is_what_the_graph_does(
    graph: ort.InferenceSession, precision: Precision, test_pictures: Pictures
) -> None:
    found = probabilities(graph, test_pictures.pictures)
    accuracy = float((found.argmax(1) == test_pictures.labels).mean())
    card = Card.read(MODEL)
    assert card.int8 is not None
    figures = card.figures if precision == "float32" else card.int8.figures
    assert accuracy == pytest.approx(figures["accuracy"].value, abs=1e-4)


@pytest.mark.parametrize("directory", [MODEL, BASELINE], ids=lambda directory: str(directory.name))
def test_eight_bits_are_as_good_and_the_same_in_any_company(directory: Path, test_pictures: Pictures) -> None:
    card = Card.read(directory)
    assert card.int8 is not None
    assert card.int8.served
    for name, figure in card.int8.figures.items():
        assert figure.value == pytest.approx(card.figures[name].value, abs=0.001)
    graph, pictures = version.open_session(directory / "model.int8.onnx"), test_pictures.pictures[:64]
    alone = np.concatenate([probabilities(graph, pictures[row : row + 1]) for row in range(64)])
    assert np.array_equal(probabilities(graph, pictures), alone)  # whole numbers, in whatever order they are added


@pytest.mark.parametrize("directory", [MODEL, BASELINE], ids=lambda directory: str(directory.name))
def test_no_pair_of_products_overflows_sixteen_bits(directory: Path) -> None:
    model = onnx.load(directory / "model.int8.onnx")
    constants = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    largest = max(int(np.abs(array.astype(int)).max()) for array in constants if array.dtype == np.int8)
    assert 2 * largest * 255 < 2**15


def test_a_picture_is_read_alike_in_any_company(graph: ort.InferenceSession, test_pictures: Pictures) -> None:
    pictures = test_pictures.pictures[:200]
    together = probabilities(graph, pictures)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)
    for size in (1, 3, 64):
        apart = np.concatenate([probabilities(graph, pictures[at : at + size]) for at in range(0, 200, size)])
        np.testing.assert_allclose(together, apart, rtol=0, atol=1e-5)
    assert probabilities(graph, pictures[:0]).shape == (0, 10)


def test_small_shifts_do_not_change_the_digit(graph: ort.InferenceSession, test_pictures: Pictures) -> None:
    pictures, labels = test_pictures.pictures[:1000], test_pictures.labels[:1000]
    for axis in (1, 2):
        for step in (-2, 2):
            shifted = np.roll(pictures, step, axis)
            assert (probabilities(graph, shifted).argmax(1) == labels).mean() >= 0.985


def test_folding_and_export_change_nothing(tmp_path: Path, test_pictures: Pictures) -> None:
    torch.manual_seed(0)
    network = Convolutional(0.3)
    pictures = torch.from_numpy(test_pictures.pictures[:32])
    network.train()
    for _ in range(3):  # so that batch norm has statistics
        network(pictures)
    folded = fold(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    with torch.inference_mode():
        torch.testing.assert_close(folded(pictures), network.eval()(pictures), rtol=0, atol=1e-6)
    example = {"pictures": test_pictures.pictures[:2]}
    path = version.export_graph(
        folded, tmp_path / "model.onnx", example, ("probabilities",), {"pictures": {0: "batch"}}
    )
    batches = ({"pictures": test_pictures.pictures[:size]} for size in (1, 2, 7, 64))
    assert version.check_parity(folded, path, batches) <= version.TOLERANCE
    assert multiply_adds(folded) == Card.read(MODEL).figures["multiply_adds"].value


def test_augmentation_keeps_shape_and_range_and_follows_the_seed(test_pictures: Pictures) -> None:
    pictures = torch.from_numpy(test_pictures.pictures[:64])
    torch.manual_seed(1)
    once = augment(pictures, Hyperparameters())
    torch.manual_seed(1)
    again = augment(pictures, Hyperparameters())
    assert torch.equal(once, again)
    assert once.shape == pictures.shape
    assert once.dtype == torch.float32
    assert once.min() >= 0
    assert once.max() <= 255.01
    assert (once - pictures).abs().mean() > 5
    calm = augment(pictures, Hyperparameters(), strength=0.0)
    torch.testing.assert_close(calm, pictures.to(torch.float32), rtol=0, atol=0.01)


def test_the_average_follows_weights_and_statistics() -> None:
    network = Convolutional(0.3)
    average = averaged(network, 0.9)
    average.update_parameters(network)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.fill_(3)
    average.update_parameters(network)
    between = average.module.state_dict()["layers.0.weight"]
    assert ((between < 3) & (between > 0.5)).all()  # the decay is small in the first steps
    for _ in range(200):
        average.update_parameters(network)
    for slow, fast in zip(average.module.state_dict().values(), network.state_dict().values(), strict=True):
        torch.testing.assert_close(slow, fast, rtol=0, atol=1e-4)


def test_photographs_follow_the_seed_and_keep_the_digit_inside(test_pictures: Pictures) -> None:
    digits = test_pictures.pictures[:20]
    first, second = (photographs.photograph(digits[0], np.random.default_rng(5)) for _ in range(2))
    assert first == second
    assert first != photographs.photograph(digits[0], np.random.default_rng(6))
    drawn = list(photographs.photographs(digits, seed=0))
    assert drawn == list(photographs.photographs(digits, seed=0))
    assert None not in pictures_read.preprocess(drawn, "photographs")


@pytest.mark.parametrize("name", KINDS)
def test_difficult_pictures_follow_the_seed_and_can_be_decoded(name: str, test_pictures: Pictures) -> None:
    digits = test_pictures.pictures[test_pictures.labels == 5][:3]
    drawn = list(clutter.pictures(name, digits, seed=3))
    assert drawn == list(clutter.pictures(name, digits, seed=3))
    assert drawn != list(clutter.pictures(name, digits, seed=4))
    assert all(read_grey(picture).size for picture in drawn)


def test_pictures_without_a_digit_are_read_as_none(test_pictures: Pictures) -> None:
    blank, digit = (png(picture) for picture in (np.zeros((40, 40), np.uint8), test_pictures.pictures[0]))
    read = pictures_read.read(MODEL / "model.onnx", pictures_read.preprocess([blank, digit, blank], "test"))
    assert read.tolist() == [-1, test_pictures.labels[0], -1]
