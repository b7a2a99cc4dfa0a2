"""Requests, inputs of the graph and responses of the digits task."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from service.errors import Fault, Invalid, TooLarge
from service.tasks.digits import Candidates, DigitsRequest, DigitsTask
from tests.paths import DIFFICULT_DIGITS
from training.data.images import MNIST, load_images

TASK = DigitsTask(Path("models/digits/2"))
PICTURES = load_images(MNIST)[1].pictures[:64]


def png(picture: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


def request(*images: bytes) -> DigitsRequest:
    body = json.dumps({"images": [base64.b64encode(image).decode() for image in images]})
    return DigitsRequest.model_validate_json(body)


def test_base64_and_bytes_give_the_same_pictures_in_order() -> None:
    images = [png(picture) for picture in PICTURES]
    for asked in (request(*images), DigitsRequest.model_construct(images=images)):
        inputs, state = TASK.preprocess(asked)
        assert state is None
        assert inputs["pictures"].dtype == np.uint8
        assert np.array_equal(inputs["pictures"], PICTURES)


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"images": []}',
        '{"images": ["*not base64*"]}',
        '{"images": [7]}',
        '{"images": "iVBORw0KGgo="}',
        '{"images": ["aGVsbG8="], "more": 1}',
        json.dumps({"images": ["aGVsbG8="] * 65}),
    ],
)
def test_invalid_requests_are_rejected(body: str) -> None:
    with pytest.raises(ValidationError):
        DigitsRequest.model_validate_json(body)


def test_a_bad_picture_is_named() -> None:
    good = png(PICTURES[0])
    with pytest.raises(Invalid) as caught:
        TASK.preprocess(request(good, b"https://example.org/seven.png"))
    assert caught.value.faults[0].loc == ("images", 1)
    with pytest.raises(TooLarge) as too_large:
        TASK.preprocess(request(good, good, png(np.zeros((5001, 5000), np.uint8))))
    assert isinstance(too_large.value.faults[0], Fault)
    assert too_large.value.faults[0].loc == ("images", 2)


def test_only_a_few_small_pictures_are_fast() -> None:
    assert not TASK.is_slow_to_preprocess(request(png(PICTURES[0])))
    assert TASK.is_slow_to_preprocess(request(*(png(picture) for picture in PICTURES)))
    noise = np.random.default_rng(0).integers(0, 256, (400, 400), dtype=np.uint8)
    assert TASK.is_slow_to_preprocess(request(png(noise)))
    blank = io.BytesIO()
    Image.new("L", (5000, 5000)).save(blank, "WEBP", lossless=True)  # a kilobyte
    assert TASK.is_slow_to_preprocess(request(blank.getvalue()))


def test_an_ambiguous_picture_gives_several_rows_and_one_prediction() -> None:
    several = [path.read_bytes() for path in DIFFICULT_DIGITS]
    inputs, candidates = TASK.preprocess(request(png(PICTURES[0]), *several, png(PICTURES[1])))
    assert candidates is not None
    assert len(inputs["pictures"]) == len(candidates.pictures) == len(candidates.unevenness) > len(several) + 2
    assert np.array_equal(np.unique(candidates.pictures), np.arange(len(several) + 2))
    probabilities = np.full((len(candidates.pictures), 10), 0.01, np.float32)
    probabilities[:, 3] = 0.91
    rows = TASK.select({"probabilities": probabilities}, candidates)
    assert rows is not None
    assert candidates.pictures[rows].tolist() == list(range(len(several) + 2))
    assert np.array_equal(inputs["pictures"][rows[[0, -1]]], PICTURES[:2])


def test_the_most_confident_row_is_selected_unless_its_surroundings_are_uneven() -> None:
    candidates = Candidates(np.array([0, 0, 1, 2, 2]), np.array([2.0, 2.0, 9.0, 1.0, 30.0]))
    probabilities = np.full((5, 10), 0.01, np.float32)
    probabilities[np.arange(5), [1, 2, 3, 4, 5]] = [0.6, 0.9, 0.5, 0.9, 0.99]
    rows = TASK.select({"probabilities": probabilities}, candidates)
    assert rows is not None
    assert rows.tolist() == [1, 2, 3]
    assert TASK.select({"probabilities": probabilities}, None) is None


def test_a_response_has_the_most_probable_digit() -> None:
    probabilities = np.full((2, 10), 0.01, np.float32)
    probabilities[0, 7] = probabilities[1, 0] = 0.91
    answer = TASK.postprocess({"probabilities": probabilities}, None)
    assert (answer.model, answer.version) == ("digits", "2")
    assert [prediction.digit for prediction in answer.predictions] == [7, 0]
    assert answer.predictions[0].confidence == pytest.approx(0.91)
    assert answer.predictions[1].probabilities == pytest.approx(probabilities[1].tolist())
    assert json.loads(answer.model_dump_json())["predictions"][0]["digit"] == 7


@pytest.mark.parametrize(("count", "error"), [(4, Invalid), (5, TooLarge)])
def test_pixels_of_all_pictures_are_counted_before_any_is_decoded(count: int, error: type[Exception]) -> None:
    buffer = io.BytesIO()
    Image.new("1", (5000, 5000)).save(buffer, "PNG")  # blank: decoded, it holds no digit
    with pytest.raises(error):
        TASK.preprocess(request(*[buffer.getvalue()] * count))


def test_features_are_the_ink_and_its_distance_from_the_middle() -> None:
    blank, dot, full = np.zeros((3, 28, 28), np.uint8)
    dot[4, 14], full[:] = 255, 255
    found = TASK.features({"pictures": np.stack((blank, dot, full))})
    assert found["ink"] == pytest.approx([0, 255 / 784, 255])
    assert found["off_centre"] == pytest.approx([0, 10, np.hypot(0.5, 0.5)], abs=1e-4)
