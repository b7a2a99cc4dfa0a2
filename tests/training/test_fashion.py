"""The generator that is served, from its graph: what it draws, and that its judge can be trusted."""

import numpy as np
import numpy.typing as npt
import pytest

from service.engine.onnx.runtime import ort
from service.registry.card import Card
from service.tasks.fashion import CLASSES, LATENT, FashionRequest, FashionTask, latents
from tests.paths import MODELS
from training import version
from training.data.images import FASHION_MNIST, Pictures, load_images
from training.fashion.evaluate import JUDGE, diversity, fit_baselines, frechet_distance, judge_images, mean_distance

MODEL = MODELS / "fashion" / "1"
FRESH_SEED = 987_654_321
A_CLASS = 200

Bytes = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def graph() -> ort.InferenceSession:
    return version.open_session(MODEL / "model.onnx")


@pytest.fixture(scope="module")
def real() -> Pictures:
    return load_images(FASHION_MNIST)[1]


def draw(graph: ort.InferenceSession, latent: npt.NDArray[np.float32], label: npt.NDArray[np.int64]) -> Bytes:
    (picture,) = graph.run(None, {"latent": latent, "label": label})
    assert isinstance(picture, np.ndarray)
    return picture


def in_turn(count: int) -> npt.NDArray[np.int64]:
    return np.arange(count, dtype=np.int64) % len(CLASSES)


@pytest.fixture(scope="module")
def drawn(graph: ort.InferenceSession) -> Pictures:
    """2,000 pictures from a seed that training has not used."""
    count = A_CLASS * len(CLASSES)
    return Pictures(draw(graph, latents(FRESH_SEED, count), in_turn(count)), in_turn(count))


def test_is_what_its_card_says(graph: ort.InferenceSession) -> None:
    card = Card.read(MODEL)
    assert card.classes == CLASSES
    names = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}
    for specs, values in ((card.inputs, graph.get_inputs()), (card.outputs, graph.get_outputs())):
        assert [(s.name, s.dtype, s.shape) for s in specs] == [(v.name, names[v.type], tuple(v.shape)) for v in values]
    assert (MODEL / "model.onnx").stat().st_size < 6e6


def test_draws_the_golden_pictures(graph: ort.InferenceSession) -> None:
    with np.load(MODEL / "golden.npz", allow_pickle=False) as golden:
        found = draw(graph, golden["in:latent"], golden["in:label"])
        assert set(golden["in:label"]) == set(range(10))
        assert np.abs(found.astype(int) - golden["out:picture"]).max() <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 16, 63, 64, 500])
def test_a_picture_does_not_depend_on_its_batch(graph: ort.InferenceSession, drawn: Pictures, size: int) -> None:
    part = draw(graph, latents(FRESH_SEED, size), in_turn(size))
    assert np.abs(part.astype(int) - drawn.pictures[:size]).max() <= 1


def test_the_same_seed_draws_the_same_pictures(graph: ort.InferenceSession) -> None:
    first, again = (draw(graph, latents(5, 16), in_turn(16)) for _ in range(2))
    assert (first == again).all()


def test_every_class_is_taken_for_itself(drawn: Pictures) -> None:
    right = judge_images(drawn.pictures)[0] == drawn.labels
    assert right.mean() >= 0.85
    for label, name in enumerate(CLASSES):
        assert right[drawn.labels == label].mean() >= 0.65, name


def test_pieces_of_a_class_differ_as_real_ones_do(drawn: Pictures, real: Pictures) -> None:
    pixels = [part.pictures.reshape(len(part), -1).astype(np.float32) for part in (drawn, real)]
    features = [judge_images(part.pictures)[1] for part in (drawn, real)]
    for ofdrawn, ofreal in (pixels, features):
        ratios = diversity(ofdrawn, drawn.labels, ofreal, real.labels, most=A_CLASS)
        assert 0.85 <= ratios.mean() <= 1.15
        assert ratios.min() >= 0.7


def test_no_piece_is_a_training_picture(drawn: Pictures) -> None:
    """Nearest training picture: as far from a drawn piece as from a real one of the test split, or nearly so."""
    training, test = load_images(FASHION_MNIST)
    label = CLASSES.index("Bag")
    known = training.pictures[training.labels == label].reshape(-1, 784).astype(np.float32)
    nearest = []
    for part in (drawn, test):
        rows = part.pictures[part.labels == label][:100].reshape(-1, 784).astype(np.float32)
        squares = (rows**2).sum(1)[:, None] - 2 * rows @ known.T + (known**2).sum(1)
        nearest.append(np.sqrt(squares.min(1)))
    assert nearest[0].min() > 0
    assert np.median(nearest[0]) > 0.7 * np.median(nearest[1])


def test_truncation_draws_closer_together(graph: ort.InferenceSession) -> None:
    """Direction: the smaller, the more alike the pieces of a class; and all of the range draws clothing."""
    predictor = FashionTask(MODEL)
    spreads, agreements = [], []
    for truncation in (0.1, 0.4, 1.0, 2.0):
        drawn = []
        for label in CLASSES:
            order = FashionRequest(count=50, seed=FRESH_SEED, label=label, truncation=truncation)
            inputs, _ = predictor.preprocess(order)
            drawn.append(graph.run(None, dict(inputs))[0])
        named, features = judge_images(np.concatenate(drawn))
        spreads.append(np.mean([mean_distance(part) for part in features.reshape(len(CLASSES), 50, -1)]))
        agreements.append((named == np.arange(len(CLASSES)).repeat(50)).mean())
    assert spreads == sorted(spreads)
    assert min(agreements[:3]) >= 0.85
    assert agreements[3] >= 0.75


def test_the_judge_knows_real_clothing(real: Pictures) -> None:
    assert JUDGE.stat().st_size < 3e6
    assert (judge_images(real.pictures)[0] == real.labels).mean() >= 0.92


def test_drawn_pieces_are_near_real_ones(drawn: Pictures, real: Pictures) -> None:
    """Far nearer than pictures of noise, or of one class alone, would be."""
    features, real_features = (judge_images(part.pictures)[1] for part in (drawn, real))
    distance = frechet_distance(features, real_features)
    assert distance < 0.25 * frechet_distance(features[drawn.labels == 3], real_features)


def test_the_frechet_distance_of_normal_rows_is_that_of_their_distributions() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.standard_normal((2, 200_000, 3))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(one, other * 2 + 1) == pytest.approx(3 + 3, rel=0.02)


def test_any_latent_gives_a_picture(graph: ort.InferenceSession) -> None:
    for latent in (np.zeros((10, LATENT), np.float32), np.full((10, LATENT), 50, np.float32)):
        picture = draw(graph, latent, in_turn(10))
        assert (picture.dtype, picture.shape) == (np.uint8, (10, 28, 28))


def test_simpler_pictures_are_much_farther_from_real_ones() -> None:
    training, test = load_images(FASHION_MNIST)
    baseline = fit_baselines(training[:6000], test[:2000])["normal distribution of pixels"]
    assert baseline["frechet_distance"].value > 5 * Card.read(MODEL).figures["frechet_distance"].value
