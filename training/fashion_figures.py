"""How good drawn clothing is, as the judge sees it: right for its class, as varied as real clothing, spread as it is.

The judge is a classifier of Fashion-MNIST, trained by `training/fashion_judge.py`; here it is a graph and no more.
"""

import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy import linalg
from scipy.spatial.distance import pdist

from service.registry.card import Distribution, Figure
from service.tasks.fashion import CLASSES, FashionTask, latents
from training import evaluate, export
from training.datasets import Bytes, Labels, Pictures

LATENTS = 10_000
"""From which it is measured how those of training are distributed."""

JUDGE = Path(__file__).with_name("fashion_judge.onnx")

Floats = npt.NDArray[np.floating]


def measure(drawn: Pictures, training: Pictures, test: Pictures) -> tuple[dict[str, Figure], Labels]:
    """The card's figures for drawn pictures, and the class that the judge names for each of them."""
    named, features = judgement(drawn.pictures)
    named_real, real_features = judgement(test.pictures)
    _, training_features = judgement(training.pictures[: len(test)])
    of_drawn = f"{len(drawn):,} drawn pictures, as many of each class, truncation 1"
    of_real = f"{len(test):,} real test pictures"
    figures = {
        "agreement": evaluate.accuracy(named, drawn.labels, f"share of {of_drawn}, that the judge takes for the class"),
        "agreement_real": evaluate.accuracy(named_real, test.labels, f"the judge's accuracy on {of_real}"),
    }
    for label, name in enumerate(CLASSES):
        rows = drawn.labels == label
        truth = (named_real == test.labels)[test.labels == label].mean()
        how = f"agreement, {name}: {rows.sum():,} drawn pictures; the judge's accuracy on real ones is {truth:.3f}"
        figures[f"agreement_{slug(name)}"] = evaluate.accuracy(named[rows], drawn.labels[rows], how)
    figures["frechet_distance"] = Figure(
        value=frechet_distance(features, real_features), how=f"judge's features, {of_drawn}, to {of_real}"
    )
    figures["frechet_distance_real"] = Figure(
        value=frechet_distance(training_features, real_features),
        how=f"the same of as many training pictures to {of_real}",
    )
    spaces: dict[str, tuple[Floats, Floats]] = {
        "pixels": (_flat(drawn.pictures), _flat(test.pictures)),
        "features": (features, real_features),
    }
    for space, (of_these, of_those) in spaces.items():
        ratios = diversity(of_these, drawn.labels, of_those, test.labels)
        how = f"mean distance of two drawn pictures of a class over that of two real ones, in {space}, "
        figures[f"diversity_{space}"] = Figure(value=ratios.mean(), how=how + "mean of the classes")
        lowest = int(ratios.argmin())
        figures[f"diversity_{space}_lowest"] = Figure(
            value=ratios[lowest], how=how + f"lowest class: {CLASSES[lowest]}"
        )
    return figures, named


def draw(graph: Path, count: int, seed: int) -> Pictures:
    """`count` pictures by the generator, the classes taking turns, labelled with what was asked for."""
    labels = np.arange(count, dtype=np.int64) % len(CLASSES)
    latent = latents(seed, count)
    generator = export.session(graph)
    parts = [
        generator.run(None, {"latent": latent[i : i + 500], "label": labels[i : i + 500]})[0]
        for i in range(0, count, 500)
    ]
    return Pictures(np.concatenate(parts), labels)


def distributions(seed: int) -> dict[str, Distribution]:
    """How latents are distributed that are drawn as in training."""
    features = FashionTask.features({"latent": latents(seed, LATENTS)})
    return evaluate.distributions(features, f"{LATENTS:,} latents, drawn as in training, with seed {seed}")


def _flat(pictures: Bytes) -> Floats:
    return pictures.reshape(len(pictures), -1).astype(np.float32)


def slug(name: str) -> str:
    """A class name as part of a figure's name: `t_shirt_top`."""
    return re.sub(r"\W", "_", name.lower())


def judgement(pictures: Bytes, judge: Path = JUDGE) -> tuple[Labels, npt.NDArray[np.float32]]:
    """The class, `[n]`, that the judge names for each picture of `[n, 28, 28]`, and its features, `[n, features]`."""
    graph = export.session(judge)
    parts = [graph.run(None, {"pictures": pictures[i : i + 500]}) for i in range(0, len(pictures), 500)]
    probabilities, features = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return probabilities.argmax(1), features


def frechet_distance(one: Floats, other: Floats) -> float:
    """Squared Frechet distance of the normal distributions that fit two sets of features, each `[n, features]`.

    Heusel et al., GANs Trained by a Two Time-Scale Update Rule, 2017, there with the features of Inception-v3. It has
    no natural unit, and falls with more rows: compare it with that of real pictures against real ones, as many.
    """
    covariances = [np.cov(features, rowvar=False, dtype=np.float64) for features in (one, other)]
    between = one.mean(0, dtype=np.float64) - other.mean(0, dtype=np.float64)
    # The trace of the root of a product of covariances is the sum of the roots of its eigenvalues, real and >= 0.
    roots = np.sqrt(np.maximum(linalg.eigvals(covariances[0] @ covariances[1]).real, 0))
    return float(between @ between + np.trace(covariances[0]) + np.trace(covariances[1]) - 2 * roots.sum())


def mean_distance(rows: Floats) -> float:
    """Mean Euclidean distance between two different rows of `[n, features]`."""
    return float(pdist(rows.astype(np.float64)).mean())


def diversity(drawn: Floats, drawn_labels: Labels, real: Floats, real_labels: Labels, most: int = 500) -> Floats:
    """For each class, `mean_distance` of drawn rows over that of real ones: 0 is a single picture, 1 as varied as real.

    `drawn` and `real` are `[n, features]`: pixels, or the judge's features; `most` rows of a class are compared.
    """
    return np.array(
        [
            mean_distance(drawn[drawn_labels == label][:most]) / mean_distance(real[real_labels == label][:most])
            for label in range(len(CLASSES))
        ]
    )
