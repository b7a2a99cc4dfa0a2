"""Measure a version of `fashion`: class agreement, Frechet distance and diversity, in the eyes of the judge.

The judge is the graph of a classifier of Fashion-MNIST, trained by `training.fashion.judge`.
"""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.spatial.distance import pdist
from sklearn.decomposition import PCA

from service.engine.session import Precision
from service.registry.card import GRAPHS, Card, Distribution, Figure
from service.tasks.fashion import CLASSES, LATENT, FashionTask, latents
from service.tensors import TensorSpec
from training import metrics
from training.data.images import FASHION_MNIST, Bytes, Labels, Pictures, load_images
from training.metrics import Figures, Measurement
from training.version import open_session

AGREEMENT = 5e-4
"""Largest difference from the card: other processors round differently."""
DISTRIBUTION_LATENTS = 10_000
JUDGE = Path(__file__).with_name("judge.onnx")

INPUTS = (
    TensorSpec(
        name="latent",
        dtype="float32",
        shape=("batch", LATENT),
        meaning="what to draw: numbers from the standard normal distribution",
        range="any; scaled down to 0.6 pieces are more alike, scaled up more varied",
    ),
    TensorSpec(
        name="label",
        dtype="int64",
        shape=("batch",),
        meaning="class of the piece, in the order of `classes`",
        range="0 to 9",
    ),
)
OUTPUTS = (
    TensorSpec(
        name="picture",
        dtype="uint8",
        shape=("batch", 28, 28),
        meaning="grey image of the piece, like Fashion-MNIST's",
        range="0 (background) to 255",
    ),
)

Floats = npt.NDArray[np.floating]


def measure(directory: Path, precision: Precision, data_dir: Path | None) -> Measurement:
    """Measure a graph of the version in `directory` with 10,000 generated images and Fashion-MNIST's test split."""
    card = Card.read(directory)
    published, test = load_images(FASHION_MNIST, data_dir)
    generated = generate(directory / GRAPHS[precision], len(test), card.training.seed + 1)
    return measure_generated(generated, _training_rows(published, card), test)[0]


def measure_generated(generated: Pictures, training: Pictures, test: Pictures) -> tuple[Measurement, Labels]:
    """Measure generated images; return the judge's classes of them too."""
    judged, features = judge_images(generated.pictures)
    judged_real, real_features = judge_images(test.pictures)
    _, training_features = judge_images(training.pictures[: len(test)])
    hits, real_hits = judged == generated.labels, judged_real == test.labels
    how = f"{len(generated):,} generated images, as many of each class, truncation 1"
    real = f"{len(test):,} real test images"
    figures = {
        "agreement": metrics.proportion(hits, f"share of {how}, that the judge assigns to the requested class"),
        "agreement_real": metrics.proportion(real_hits, f"the judge's accuracy on {real}"),
        "frechet_distance": Figure(
            value=frechet_distance(features, real_features), how=f"judge's features, {how}, to {real}"
        ),
        "frechet_distance_real": Figure(
            value=frechet_distance(training_features, real_features),
            how=f"the same of {len(training_features):,} training images, which the judge has seen, to {real}",
        ),
    }
    spaces: dict[str, tuple[Floats, Floats]] = {
        "pixels": (_flat(generated.pictures), _flat(test.pictures)),
        "features": (features, real_features),
    }
    for space, (of_generated, of_real) in spaces.items():
        ratios = diversity(of_generated, generated.labels, of_real, test.labels)
        note = f"mean distance of two generated images of a class over that of two real ones, in {space}, "
        figures[f"diversity_{space}"] = Figure(value=ratios.mean(), how=note + "mean of the classes")
        lowest = int(ratios.argmin())
        figures[f"diversity_{space}_lowest"] = Figure(
            value=ratios[lowest], how=note + f"lowest class: {CLASSES[lowest]}"
        )
    subgroups: dict[str, Figures] = {
        str(name): {
            "agreement": metrics.proportion(hits[generated.labels == label], how),
            "agreement_real": metrics.proportion(real_hits[test.labels == label], real),
        }
        for label, name in enumerate(CLASSES)
    }
    return Measurement(figures, {"agreement": hits.astype(np.float64)}, subgroups), judged


def generate(graph: Path, count: int, seed: int) -> Pictures:
    """Return `count` images of the classes in turn, labelled with the requested class."""
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    latent = latents(seed, count)
    generator = open_session(graph)
    parts = [
        generator.run(None, {"latent": latent[i : i + 500], "label": labels[i : i + 500]})[0]
        for i in range(0, count, 500)
    ]
    return Pictures(np.concatenate(parts), labels)


def measure_baselines(directory: Path, data_dir: Path | None) -> dict[str, Figures]:
    """Measure simpler models, fitted to the training rows of the version in `directory`."""
    published, test = load_images(FASHION_MNIST, data_dir)
    return fit_baselines(_training_rows(published, Card.read(directory)), test)


def fit_baselines(training: Pictures, test: Pictures, components: int = 50) -> dict[str, Figures]:
    """Measure images drawn from a normal distribution of each class's pixels, in their principal components."""
    generator = np.random.default_rng(0)
    labels = np.arange(len(test), dtype=np.int64) % len(CLASSES)
    images = np.zeros((len(test), 28, 28), np.uint8)
    for label in range(len(CLASSES)):
        principal = PCA(components, random_state=0).fit(_flat(training.pictures[training.labels == label]))
        weights = generator.standard_normal((int((labels == label).sum()), components))
        pixels = principal.inverse_transform(weights * np.sqrt(principal.explained_variance_))
        images[labels == label] = pixels.clip(0, 255).round().reshape(-1, 28, 28)
    judged, features = judge_images(images)
    how = f"{len(images):,} images drawn from a normal distribution in {components} principal components of each class"
    distance = frechet_distance(features, judge_images(test.pictures)[1])
    return {
        "normal distribution of pixels": {
            "agreement": metrics.proportion(judged == labels, how),
            "frechet_distance": Figure(value=distance, how=how),
        }
    }


def measure_distributions(directory: Path, _data_dir: Path | None) -> dict[str, Distribution]:
    """Measure the distributions of latents like those of training; no data are needed."""
    return distributions(Card.read(directory).training.seed)


def distributions(seed: int) -> dict[str, Distribution]:
    """Return the distributions of the features of latents."""
    features = FashionTask.features({"latent": latents(seed, DISTRIBUTION_LATENTS)})
    return metrics.measure_distributions(
        features, f"{DISTRIBUTION_LATENTS:,} latents, drawn as in training, with seed {seed}"
    )


def _training_rows(published: Pictures, card: Card) -> Pictures:
    return published.split(card.training.hyperparameters["held_out"], card.training.seed)[0]


def _flat(images: Bytes) -> Floats:
    return images.reshape(len(images), -1).astype(np.float32)


def judge_images(pictures: Bytes, judge: Path = JUDGE) -> tuple[Labels, npt.NDArray[np.float32]]:
    """Return the judge's class, `[n]`, and features, `[n, features]`, of images, uint8 `[n, 28, 28]`."""
    graph = open_session(judge)
    parts = [graph.run(None, {"pictures": pictures[i : i + 500]}) for i in range(0, len(pictures), 500)]
    probabilities, features = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return probabilities.argmax(1), features


def frechet_distance(one: Floats, other: Floats) -> float:
    """Return the squared Frechet distance of the normal distributions of two sets of features, each `[n, features]`.

    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, there with features of Inception-v3. It has no
    natural unit and falls with more rows: compare it with the distance of as many real images.
    """
    covariances = [np.cov(features, rowvar=False, dtype=np.float64) for features in (one, other)]
    between = one.mean(0, dtype=np.float64) - other.mean(0, dtype=np.float64)
    # The trace of the root of a product of covariances is the sum of the roots of its eigenvalues, real and >= 0.
    roots = np.sqrt(np.maximum(linalg.eigvals(covariances[0] @ covariances[1]).real, 0))
    return float(between @ between + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots.sum())


def mean_distance(rows: Floats) -> float:
    """Return the mean Euclidean distance between two different rows of `[n, features]`."""
    return float(pdist(rows.astype(np.float64)).mean())


def diversity(
    generated: Floats, generated_labels: Labels, real: Floats, real_labels: Labels, most: int = 500
) -> Floats:
    """Return, for each class, `mean_distance` of generated rows over that of real ones: 1 is as varied as real.

    `generated` and `real` are `[n, features]`: pixels, or the judge's features; `most` rows of a class are compared.
    """
    return np.array(
        [
            mean_distance(generated[generated_labels == label][:most])
            / mean_distance(real[real_labels == label][:most])
            for label in range(len(CLASSES))
        ]
    )
