import base64
import io
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from service.tasks.fashion import (
    CLASSES,
    EXACT_SEEDS,
    LATENT,
    MAX_SEED,
    FashionRequest,
    FashionTask,
    grid,
    latents,
    png,
    turns,
)

SEEDS = st.integers(0, MAX_SEED)
COUNTS = st.integers(1, 64)


@pytest.fixture
def task() -> FashionTask:
    return FashionTask(Path("models/fashion/1"))


def pictures(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 28, 28), np.uint8)


def unpacked(data: bytes) -> npt.NDArray[np.uint8]:
    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        assert image.mode == "L"
        return np.asarray(image)


@given(
    count=COUNTS,
    seed=SEEDS,
    label=st.sampled_from(CLASSES) | st.none(),
    truncation=st.floats(0.1, 2.0),
)
def test_every_valid_request_is_preprocessed(count: int, seed: int, label: str | None, truncation: float) -> None:
    request = FashionRequest.model_validate({"count": count, "seed": seed, "label": label, "truncation": truncation})
    tensors, order = FashionTask(Path("1")).preprocess(request)
    assert tensors["latent"].shape == (count, LATENT)
    assert tensors["latent"].dtype == np.float32
    assert np.isfinite(tensors["latent"]).all()
    assert tensors["label"].shape == (count,)
    assert tensors["label"].dtype == np.int64
    assert set(tensors["label"]) <= set(range(10) if label is None else [CLASSES.index(label)])
    assert order.seed == seed
    assert (order.labels == tensors["label"]).all()


@given(seed=SEEDS, few=COUNTS)
def test_a_smaller_count_gives_the_first_rows_of_a_larger_one(seed: int, few: int) -> None:
    assert (latents(seed, few) == latents(seed, 64)[:few]).all()
    assert (turns(seed, few) == turns(seed, 64)[:few]).all()


@given(seed=SEEDS)
def test_any_ten_in_a_row_are_all_ten_classes(seed: int) -> None:
    labels = turns(seed, 64)
    assert all(len(set(labels[i : i + 10])) == 10 for i in range(55))


@given(seed=SEEDS, other=SEEDS)
def test_different_seeds_give_different_latents(seed: int, other: int) -> None:
    assert (latents(seed, 1) == latents(other, 1)).all() == (seed == other)


def test_latents_are_pinned() -> None:
    """A stored seed gives the same pictures as long as the version is served."""
    drawn = latents(20260101, 2)
    assert drawn[1, :4] == pytest.approx([0.270259, -1.673007, 0.03338, -0.413893], abs=1e-6)


def test_latents_are_standard_normal_and_independent() -> None:
    drawn = latents(1, 20_000).astype(np.float64)
    assert abs(drawn.mean()) < 0.005
    assert abs(drawn.std() - 1) < 0.005
    assert abs((drawn**4).mean() - 3) < 0.05
    assert np.abs(np.corrcoef(drawn.T) - np.eye(LATENT)).max() < 0.035


def test_truncation_scales_the_latents(task: FashionTask) -> None:
    lengths = []
    for truncation in (0.1, 0.5, 1.0, 1.5, 2.0):
        latent = task.preprocess(FashionRequest(seed=3, truncation=truncation))[0]["latent"].astype(np.float64)
        lengths.append(np.linalg.norm(latent))
        assert latent / lengths[-1] == pytest.approx(latents(3, 16) / np.linalg.norm(latents(3, 16)), abs=1e-6)
    assert lengths == sorted(lengths)
    assert lengths[2] == pytest.approx(np.linalg.norm(latents(3, 16)))


def test_a_seed_is_drawn_if_none_is_given(task: FashionTask) -> None:
    seeds = {task.preprocess(FashionRequest())[1].seed for _ in range(20)}
    assert len(seeds) == 20
    assert max(seeds) < EXACT_SEEDS
    assert not task.is_repeatable(FashionRequest())
    assert task.is_repeatable(FashionRequest(seed=0))


@pytest.mark.parametrize("label", ["ankle boot", "ANKLE BOOT", " Ankle Boot "])
def test_class_names_are_accepted_in_any_case(label: str) -> None:
    assert FashionRequest.model_validate({"label": label}).label == "Ankle boot"


@pytest.mark.parametrize(
    "order",
    [
        {"count": 0},
        {"count": 65},
        {"count": 1.5},
        {"count": "3"},
        {"count": True},
        {"seed": -1},
        {"seed": MAX_SEED + 1},
        {"seed": "1"},
        {"seed": 1.0},
        {"label": "hat"},
        {"label": 3},
        {"label": ["Bag"]},
        {"label": ""},
        {"truncation": 0.09},
        {"truncation": 2.01},
        {"truncation": float("nan")},
        {"truncation": float("inf")},
        {"size": 3},
    ],
)
def test_an_invalid_request_is_rejected(order: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        FashionRequest.model_validate(order)


def test_a_response_has_pictures_and_labels(task: FashionTask) -> None:
    tensors, order = task.preprocess(FashionRequest(count=12, seed=MAX_SEED))
    drawn = pictures(12)
    answer = task.postprocess({"picture": drawn}, order).model_dump(mode="json")
    assert answer["seed"] == MAX_SEED
    assert (answer["model"], answer["version"]) == ("fashion", "1")
    assert [CLASSES.index(piece["label"]) for piece in answer["predictions"]] == tensors["label"].tolist()
    for piece, picture in zip(answer["predictions"], drawn, strict=True):
        assert (unpacked(base64.b64decode(piece["image"], validate=True)) == picture).all()


def test_a_png_is_one_picture_with_the_seed_as_metadata(task: FashionTask) -> None:
    _, order = task.preprocess(FashionRequest(count=5, seed=7))
    drawn = pictures(5)
    rendering = task.render(task.postprocess({"picture": drawn}, order), "image/png")
    assert rendering.metadata == {"seed": "7"}
    assert (unpacked(rendering.content) == grid(drawn)).all()


def test_other_media_types_are_a_lookup_error(task: FashionTask) -> None:
    _, order = task.preprocess(FashionRequest(count=1))
    answer = task.postprocess({"picture": pictures(1)}, order)
    with pytest.raises(LookupError):
        task.render(answer, "image/jpeg")


@given(count=COUNTS)
def test_a_grid_is_nearly_square_and_holds_every_picture(count: int) -> None:
    drawn = pictures(count)
    joined = grid(drawn, padding=2)
    rows, columns = ((side - 2) // 30 for side in joined.shape)
    assert 0 <= columns - rows <= 1
    assert rows * columns - count < columns
    for index, picture in enumerate(drawn):
        top, left = 2 + 30 * (index // columns), 2 + 30 * (index % columns)
        assert (joined[top : top + 28, left : left + 28] == picture).all()
    assert joined.sum(dtype=np.int64) == drawn.sum(dtype=np.int64)


def test_a_png_is_small() -> None:
    assert len(png(np.zeros((28, 28), np.uint8))) < 200


def test_the_feature_is_the_length_of_the_latents(task: FashionTask) -> None:
    latent = np.stack([np.zeros(LATENT), np.ones(LATENT), np.full(LATENT, 1e38)]).astype(np.float32)
    found = task.features({"latent": latent, "label": np.zeros(3, np.int64)})
    assert found["latent_length"] == pytest.approx([0, 8, 8e38])


@given(st.sets(st.sampled_from(["count", "seed", "label", "truncation"])))
def test_a_null_field_means_absent(null: set[str]) -> None:
    given_fields = {"count": 3, "seed": 5, "label": "Coat", "truncation": 0.5}
    without = {name: value for name, value in given_fields.items() if name not in null}
    found = FashionRequest.model_validate_json(json.dumps(without | dict.fromkeys(null)))
    assert found == FashionRequest.model_validate_json(json.dumps(without))
