"""A digit is found at any place in a picture, in any surroundings, and brought into MNIST's form."""

import time
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from service.errors import Invalid
from service.tasks.digit_crop.crops import MAX_CROPS, crops
from service.tasks.digit_crop.lines import remove_lines
from service.tasks.images import read_grey
from tests.paths import DIFFICULT_DIGITS
from tests.tasks.drawings import MNIST_TEST, Grey, digit_of, digits_of, drawing, encode
from training.digits import clutter, photographs
from training.digits.clutter import KINDS, cropped
from training.digits.sheets import png

SOME = np.random.default_rng(1).choice(len(MNIST_TEST), 1000, replace=False)
LEAST = {
    "edge-of-the-table": 0.85,
    "paper-on-dark-table": 0.85,
    "card-on-transparent-canvas": 0.85,
    "equal-lightness": 0.85,
    "squared-paper": 0.92,
    "detached-heavy-bar": 0.9,
}
"""Where it is not 95 %. Of squared paper 96 % are read right, of these 80 by chance fewer. The network takes some
fives with a heavy bar for threes, though they are cropped well."""


def read(*greys: Grey) -> list[int]:
    return digits_of(encode(Image.fromarray(grey)) for grey in greys).tolist()


def test_mnist_pictures_are_unchanged_by_png() -> None:
    for picture in MNIST_TEST.pictures[:500]:
        for encoded in (picture, 255 - picture):
            (crop,) = crops(read_grey(encode(Image.fromarray(encoded))))
            assert np.array_equal(crop.digit, picture)


def test_mnist_pictures_are_recognised_as_cropped() -> None:
    for picture in MNIST_TEST.pictures:
        (crop,) = crops(picture)
        assert np.array_equal(crop.digit, picture)


def test_digits_drawn_into_photographs_are_read() -> None:
    rows = SOME[:500]
    read = digits_of(photographs.photographs(MNIST_TEST.pictures[rows], seed=1))
    assert (read == MNIST_TEST.labels[rows]).mean() >= 0.985


@pytest.mark.parametrize(
    ("margin", "side"), [(0, None), (0, 12), (0, 16), (0, 20), (0, 28), (0, 200), (1, None), (1, 12), (2, 16), (3, 64)]
)
def test_digits_cut_to_their_outline_are_read(margin: int, side: int | None) -> None:
    rows = SOME[:100]
    cut = [png(cropped(MNIST_TEST.pictures[row], margin, side, negative=bool(row % 2))) for row in rows]
    assert (digits_of(cut) == MNIST_TEST.labels[rows]).mean() >= 0.97


@pytest.mark.parametrize("name", KINDS)
def test_digits_in_difficult_pictures_are_read(name: str) -> None:
    fives = np.flatnonzero(MNIST_TEST.labels == 5)
    rows = fives[:80] if name == "detached-heavy-bar" else SOME[:80]
    read = digits_of(clutter.pictures(name, MNIST_TEST.pictures[rows], seed=1))
    assert (read == MNIST_TEST.labels[rows]).mean() >= LEAST.get(name, 0.95)


@pytest.mark.parametrize("example", DIFFICULT_DIGITS, ids=lambda path: path.stem)
def test_examples_of_difficult_pictures_are_read(example) -> None:
    assert digit_of(example.read_bytes()) == int(example.stem[-1])


@pytest.mark.parametrize("size", [40, 300, 2000])
@pytest.mark.parametrize("light_ink", [True, False])
def test_size_does_not_matter(size: int, light_ink: bool) -> None:
    inks = [drawing(digit, size) for digit in range(10)]
    assert read(*(ink if light_ink else 255 - ink for ink in inks)) == list(range(10))


@pytest.mark.parametrize("share", [0.04, 0.08, 0.2])
def test_a_small_digit_on_a_large_sheet_is_read(share: float) -> None:
    sheets = np.full((10, 900, 1200), 230, np.uint8)
    for digit, sheet in enumerate(sheets):
        ink = drawing(digit, round(share * 1200))
        sheet[400 : 400 + len(ink), 500 : 500 + len(ink)] -= ink // 2
    assert read(*sheets) == list(range(10))


@settings(max_examples=40, deadline=None)
@given(digit=st.integers(0, 9), y=st.integers(0, 90), x=st.integers(0, 140), paper=st.integers(0, 120))
def test_place_and_polarity_do_not_matter(digit: int, y: int, x: int, paper: int) -> None:
    ink = drawing(digit, 110)
    canvas = np.full((200, 250), paper, np.uint8)
    canvas[y : y + 110, x : x + 110] = np.maximum(ink, paper)
    assert read(canvas, 255 - canvas) == [digit] * 2


@settings(max_examples=30, deadline=None)
@given(digit=st.integers(0, 9), factor=st.floats(1.5, 12))
def test_scale_does_not_matter(digit: int, factor: float) -> None:
    base = drawing(digit, 80)
    large = cv2.resize(base, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    assert read(base, large) == [digit] * 2


@settings(max_examples=40, deadline=None)
@given(digit=st.integers(0, 9), margins=st.tuples(*[st.integers(0, 60)] * 4))
def test_margins_do_not_matter(digit: int, margins: tuple[int, int, int, int]) -> None:
    ink = drawing(digit, 100)
    left, top, width, height = cv2.boundingRect(ink)
    up, down, before, after = margins
    canvas = np.pad(ink[top : top + height, left : left + width], ((up, down), (before, after)))
    assert read(canvas, 255 - canvas) == [digit] * 2


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 60), width=st.integers(1, 400), seed=st.integers(0, 1000), density=st.floats(0, 1))
def test_every_picture_is_cropped_or_invalid(height: int, width: int, seed: int, density: float) -> None:
    random = np.random.default_rng(seed)
    canvas = (random.random((height, width)) < density).astype(np.uint8) * random.integers(1, 255, dtype=np.uint8)
    try:
        found = crops(canvas)
    except Invalid:
        return
    assert 1 <= len(found) <= MAX_CROPS
    for crop in found:
        assert crop.digit.dtype == np.uint8
        assert crop.digit.shape == (28, 28)
        assert crop.digit.max() > 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 1024), (1024, 1), (2, 1000), (1024, 3), (12, 12), (1024, 1024)])
def test_the_time_for_any_picture_is_bounded(shape: tuple[int, int]) -> None:
    random = np.random.default_rng(0)
    checks = (np.indices(shape).sum(0) % 2 * 255).astype(np.uint8)
    for picture in (random.integers(0, 256, shape, np.uint8), checks, np.full(shape, 7, np.uint8)):
        began = time.process_time()
        with suppress(Invalid):
            crops(picture)
        assert time.process_time() - began < 0.5


def test_a_clear_picture_gives_one_crop_and_few_give_several() -> None:
    (_,) = crops(255 - drawing(7, 200))
    pictures = photographs.photographs(MNIST_TEST.pictures[SOME[:80]], seed=2)
    assert np.mean([len(crops(read_grey(picture))) for picture in pictures]) < 1.5


@pytest.mark.parametrize("tone", [0, 1, 128, 255])
def test_a_blank_picture_is_invalid(tone: int) -> None:
    noise = np.random.default_rng(0).normal(tone, 2, (300, 200)).clip(0, 255).astype(np.uint8)
    much = np.random.default_rng(0).normal(128, 10, (300, 200)).clip(0, 255).astype(np.uint8)
    slope = (np.linspace(0, 60, 200)[None, :] + np.linspace(0, 60, 300)[:, None] + tone / 2).clip(0, 255).astype("u1")
    flat = [np.full(shape, tone, np.uint8) for shape in ((300, 200), (28, 28), (1, 1), (1, 500))]
    for blank in (*flat, noise, much, slope):
        with pytest.raises(Invalid, match="No digit"):
            digit_of(encode(Image.fromarray(blank)))
    with pytest.raises(Invalid, match="No digit"):
        digit_of(encode(Image.new("RGBA", (50, 50), (tone, tone, tone, 0))))


@pytest.mark.parametrize("slope", [-0.03, 0.0, 0.03])
def test_lines_are_removed_and_crossing_strokes_are_kept(slope: float) -> None:
    mask = np.zeros((100, 120), np.uint8)
    mask[20:80, 50:56] = 1
    stroke = mask.copy()
    for row in (10, 50, 90):
        cv2.line(mask, (0, round(row - 60 * slope)), (119, round(row + 60 * slope)), 1, 2)
    rest = remove_lines(mask)
    assert rest[stroke > 0].mean() > 0.97
    assert rest[:, :45].sum() + rest[:, 61:].sum() == 0


def test_a_picture_without_lines_is_unchanged() -> None:
    mask = (drawing(4, 100) > 128).astype(np.uint8)
    assert np.array_equal(remove_lines(mask), mask)
