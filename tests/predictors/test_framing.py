"""A digit is found wherever it is in a picture, of whatever size and polarity, and put where MNIST has it."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import Invalid
from service.predictors.framing import frame
from service.predictors.pictures import read_grey
from tests.predictors.drawings import MNIST_TEST, classify, digit_of, drawing, encode
from training.digits import photographs


def test_mnist_through_png_is_mnist() -> None:
    for picture in MNIST_TEST.pictures[:500]:
        assert np.array_equal(frame(read_grey(encode(Image.fromarray(picture)))), picture)
        assert np.array_equal(frame(read_grey(encode(Image.fromarray(255 - picture)))), picture)


def test_all_of_mnist_is_recognised_as_framed_already() -> None:
    through = np.stack([frame(picture) for picture in MNIST_TEST.pictures])
    assert np.array_equal(through, MNIST_TEST.pictures)


def test_digits_drawn_into_photographs_are_read() -> None:
    rows = np.random.default_rng(1).choice(len(MNIST_TEST), 1000, replace=False)
    framed, found = photographs.read_back(MNIST_TEST.pictures[rows], seed=1)
    right = found & (classify(framed) == MNIST_TEST.labels[rows])
    assert right.mean() >= 0.985


@pytest.mark.parametrize("size", [40, 300, 2000])
@pytest.mark.parametrize("light_ink", [True, False])
def test_size_does_not_matter(size: int, light_ink: bool) -> None:
    for digit in range(10):
        ink = drawing(digit, size)
        assert digit_of(encode(Image.fromarray(ink if light_ink else 255 - ink))) == digit


@settings(max_examples=40, deadline=None)
@given(digit=st.integers(0, 9), y=st.integers(0, 90), x=st.integers(0, 140), paper=st.integers(0, 120))
def test_place_and_polarity_do_not_matter(digit: int, y: int, x: int, paper: int) -> None:
    ink = drawing(digit, 110)
    canvas = np.full((200, 250), paper, np.uint8)
    canvas[y : y + 110, x : x + 110] = np.maximum(ink, paper)
    assert classify(np.stack([frame(canvas), frame(255 - canvas)])).tolist() == [digit] * 2


@settings(max_examples=30, deadline=None)
@given(digit=st.integers(0, 9), factor=st.floats(1.5, 12))
def test_scale_does_not_matter(digit: int, factor: float) -> None:
    base = drawing(digit, 80)
    large = cv2.resize(base, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    assert classify(np.stack([frame(base), frame(large)])).tolist() == [digit] * 2


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 400), seed=st.integers(0, 1000), density=st.floats(0, 1))
def test_any_picture_is_framed_or_invalid(height: int, width: int, seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    canvas = (random.random((height, width)) < density).astype(np.uint8) * random.integers(1, 255, dtype=np.uint8)
    try:
        framed = frame(canvas)
    except Invalid:
        return
    assert framed.dtype == np.uint8
    assert framed.shape == (28, 28)
    assert framed.max() > 0


@pytest.mark.parametrize("tone", [0, 1, 128, 255])
def test_a_blank_picture_holds_no_digit(tone: int) -> None:
    noise = np.random.default_rng(0).normal(tone, 2, (300, 200)).clip(0, 255).astype(np.uint8)
    slope = (np.linspace(0, 60, 200)[None, :] + np.linspace(0, 60, 300)[:, None] + tone / 2).clip(0, 255)
    for blank in (np.full((300, 200), tone, np.uint8), np.full((28, 28), tone, np.uint8), noise, slope.astype("u1")):
        with pytest.raises(Invalid, match="No digit"):
            digit_of(encode(Image.fromarray(blank)))
    with pytest.raises(Invalid, match="No digit"):
        digit_of(encode(Image.new("RGBA", (50, 50), (tone, tone, tone, 0))))
