"""Draw MNIST digits into difficult pictures: frames, ruled paper, shadows, tables, tight crops, faint ink.

`KINDS` names each kind. A kind draws one digit with one random generator, so a seed gives the same pictures again.
`training.digits.photographs` draws the easy case: one digit on plain paper with a margin.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from training.digits.photographs import Floats, Grey
from training.digits.sheets import NEGATIVE, SCENE, Random, edges_of, encode, finish, png, rule, sheet, tilted

LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in lightness (ITU-R BT.601), as Pillow and JPEG have them."""


def frame_cut_by_the_picture(digit: Grey, random: Random) -> bytes:
    """A form field whose four edges run along the rim of the picture and out of it."""
    page = sheet(digit, random, replace(SCENE, digit=(0.4, 0.65)))
    offsets = random.uniform(0.0, 0.07, 4)
    rule(page, random, edges_of(page, offsets), (0.008, 0.03))
    return finish(page.tone(), random)


def frame_inside_the_picture(digit: Grey, random: Random) -> bytes:
    """A form field that lies wholly inside the picture."""
    page = sheet(digit, random, replace(SCENE, digit=(0.35, 0.6)))
    height, width = page.ink.shape
    top, left, bottom, right = random.uniform(0.04, 0.12, 4) * page.side
    thick = max(1, round(random.uniform(0.008, 0.025) * page.side))
    lines = np.zeros((height, width), np.float32)
    corners = (round(left), round(top)), (round(width - right), round(height - bottom))
    cv2.rectangle(lines, *corners, 1.0, thick, cv2.LINE_AA)
    page.add(tilted(lines, random.uniform(-1.5, 1.5)), random.uniform(0.6, 1.0))
    return finish(page.tone(), random)


def two_edges_of_a_cell(digit: Grey, random: Random) -> bytes:
    """Two edges of a cell that meet in a corner of the picture."""
    page = sheet(digit, random, replace(SCENE, digit=(0.4, 0.65)))
    edges = edges_of(page, random.uniform(0.0, 0.08, 4))
    rule(page, random, [edges[random.integers(2)], edges[2 + random.integers(2)]], (0.01, 0.04))
    return finish(page.tone(), random)


def ruled_paper(digit: Grey, random: Random) -> bytes:
    """Horizontal rules, some of which cross the digit."""
    page = sheet(digit, random)
    gap = random.uniform(0.15, 0.35) * page.side
    rows = np.arange(random.uniform(0, gap), page.ink.shape[0], gap)
    rule(page, random, [("row", row) for row in rows], (0.005, 0.014), (0.3, 0.8))
    return finish(page.tone(), random)


def squared_paper(digit: Grey, random: Random) -> bytes:
    """Squares, some of whose lines cross the digit."""
    page = sheet(digit, random)
    gap = random.uniform(0.1, 0.25) * page.side
    rows = [("row", at) for at in np.arange(random.uniform(0, gap), page.ink.shape[0], gap)]
    columns = [("column", at) for at in np.arange(random.uniform(0, gap), page.ink.shape[1], gap)]
    rule(page, random, rows + columns, (0.005, 0.012), (0.25, 0.65))
    return finish(page.tone(), random)


def hard_shadow(digit: Grey, random: Random) -> bytes:
    """The edge of a shadow across the paper, sharp or a little soft."""
    page = sheet(digit, random)
    y, x = np.indices(page.ink.shape, np.float32) / page.side - 0.5
    angle, depth = random.uniform(0, 2 * np.pi), random.uniform(0.35, 0.65)
    distance = np.cos(angle) * x + np.sin(angle) * y - random.uniform(-0.3, 0.3)
    dark = np.clip(distance / random.uniform(0.005, 0.06) + 0.5, 0, 1)
    return finish(page.tone() * (1 - np.float32(depth) * dark), random)


def edge_of_the_table(digit: Grey, random: Random) -> bytes:
    """A dark strip along one rim, where the paper ends."""
    page = sheet(digit, random, replace(SCENE, digit=(0.35, 0.6)))
    strip = random.uniform(0.05, 0.18)
    y, x = np.indices(page.ink.shape, np.float32) / page.side
    slope = random.uniform(-0.08, 0.08)
    inside = np.clip(((y - strip) - slope * x) * page.side + 0.5, 0, 1)
    quarter = int(random.integers(4))
    inside = np.rot90(inside, quarter) if quarter % 2 == 0 else _fitted(np.rot90(inside, quarter), page.ink.shape)
    table = random.uniform(15, 90)
    return finish(np.asarray(table + (page.tone() - table) * inside, np.float32), random)


def finger_at_the_rim(digit: Grey, random: Random) -> bytes:
    """The tip of a finger, out of focus, that reaches into the picture from one rim."""
    page = sheet(digit, random, replace(SCENE, digit=(0.35, 0.6)))
    height, width = page.ink.shape
    tip = np.zeros((height, width), np.float32)
    across, reach = random.uniform(0.06, 0.13) * page.side, random.uniform(0.1, 0.22) * page.side
    at, edge = random.uniform(0.1, 0.9), int(random.integers(4))
    centre = [(at * width, 0), (at * width, height), (0, at * height), (width, at * height)][edge]
    axes = (across, reach) if edge < 2 else (reach, across)
    cv2.ellipse(tip, _whole(centre), _whole(axes), 0, 0, 360, 1.0, -1)
    tip = np.asarray(cv2.GaussianBlur(tip, (0, 0), random.uniform(0.005, 0.025) * page.side), np.float32)
    skin = page.paper * random.uniform(0.3, 0.65)
    return finish(np.asarray(page.tone() * (1 - tip) + skin * tip, np.float32), random)


def paper_on_dark_table(digit: Grey, random: Random) -> bytes:
    """A sheet that lies askew on a table of another tone."""
    page = sheet(digit, random, replace(SCENE, digit=(0.25, 0.45)))
    height, width = page.ink.shape
    outline = np.zeros((height, width), np.float32)
    size = width * random.uniform(0.62, 0.85), height * random.uniform(0.62, 0.85)
    middle = width * random.uniform(0.45, 0.55), height * random.uniform(0.45, 0.55)
    corners = cv2.boxPoints((middle, size, random.uniform(-12, 12)))
    cv2.fillPoly(outline, [np.rint(corners).astype(np.int32)], 1.0, cv2.LINE_AA)
    table = page.paper * random.uniform(0.15, 0.55)
    return finish(np.asarray(table + (page.tone() - table) * outline, np.float32), random)


def card_on_transparent_canvas(digit: Grey, random: Random) -> bytes:
    """A coloured card with a digit on it, alone on a canvas that is transparent elsewhere."""
    page = sheet(digit, random, replace(SCENE, height=(60, 200)))
    height, width = page.ink.shape
    paper, ink = random.uniform(90, 255, 3), random.uniform(0, 200, 3)
    while abs(float((paper - ink) @ LUMA)) < 50:
        ink = random.uniform(0, 255, 3)
    card = paper + (ink - paper) * page.ink[:, :, None]
    top, left = (int(random.integers(0, size)) for size in (height, width))
    canvas = np.zeros((height + top + int(random.integers(height)), width + left + int(random.integers(width)), 4))
    canvas[:, :, :3] = 255 * (random.random() < 0.5)
    canvas[top : top + height, left : left + width, :3] = card
    canvas[top : top + height, left : left + width, 3] = 255
    if random.random() < 0.5:
        canvas = _turned(canvas, random.uniform(-15, 15))
    return png(np.rint(canvas).clip(0, 255).astype(np.uint8))


def no_margin(digit: Grey, random: Random) -> bytes:
    """The digit cut to its outline, or nearly, at a size from 12x12 up."""
    return png(cropped(digit, int(random.integers(0, 4)), int(random.integers(12, 200)), random.random() < 0.5))


def cropped(digit: Grey, margin: int, side: int | None = None, negative: bool = False, square: bool = False) -> Grey:
    """Cut a digit to its outline.

    Args:
        digit: uint8 `[28, 28]`.
        margin: pixels of background that stay on each side, before scaling.
        side: the longer side afterwards; None not to scale.
        negative: dark ink on white.
        square: stretch the cut to a square, as a client that resizes does.
    """
    left, top, width, height = cv2.boundingRect(digit)
    cut = np.pad(digit[top : top + height, left : left + width], margin)
    if side is not None:
        scale = side / max(cut.shape)
        size = (side, side) if square else tuple(max(1, round(length * scale)) for length in cut.shape[::-1])
        cut = np.asarray(cv2.resize(cut, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    return 255 - cut if negative else cut


def detached_heavy_bar(digit: Grey, random: Random) -> bytes:
    """A digit whose top is written with a heavy pen, apart from the fine rest: the bar of a 5."""
    left, top, width, height = cv2.boundingRect(digit)
    scale = 4
    large = cv2.resize(digit[top : top + height, left : left + width], None, fx=scale, fy=scale) > 128
    strokes = np.pad(large.astype(np.uint8), 8 * scale)
    cut = 8 * scale + round(height * scale * random.uniform(0.22, 0.3))
    gap = round(scale * random.uniform(1.5, 3))
    bar, rest = strokes.copy(), _thinned(strokes, round(scale * random.uniform(0.8, 1.8)))
    bar[cut:] = rest[: cut + gap] = 0
    pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3 * scale, 2 * scale))
    ink = np.maximum(np.roll(cv2.dilate(bar, pen), -scale, 0), rest).astype(np.float32)
    side = int(random.integers(28, 140))
    page = np.asarray(cv2.resize(_squared(ink), (side, side), interpolation=cv2.INTER_AREA), np.float32)
    return finish(255 - np.float32(random.uniform(150, 250)) * page, random, noise=2.0)


def _thinned(strokes: npt.NDArray[np.uint8], width: int) -> npt.NDArray[np.uint8]:
    """Return strokes of the given width in pixels, along the middle of other strokes."""
    distance = cv2.distanceTransform(strokes, cv2.DIST_L2, 5)
    ridge = (distance >= cv2.dilate(distance, np.ones((3, 3), np.uint8)) - 0.5) & (distance > 1)
    joined = cv2.morphologyEx(ridge.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    return np.asarray(cv2.dilate(joined, np.ones((width, width), np.uint8)), np.uint8)


def _squared(ink: Floats) -> Floats:
    """Pad to a square, the ink in its middle."""
    height, width = ink.shape
    side = max(height, width)
    square = np.zeros((side, side), np.float32)
    y, x = (side - height) // 2, (side - width) // 2
    square[y : y + height, x : x + width] = ink
    return square


def scan_line(digit: Grey, random: Random) -> bytes:
    """A thin line, as a scanner or a rule leaves it, that runs out of the picture and touches the digit."""
    page = sheet(digit, random, replace(SCENE, height=(28, 150), digit=(0.4, 0.7), stroke=(0.5, 0.65)))
    _, top, _, high = cv2.boundingRect((page.ink > 0.4).astype(np.uint8))
    at = top + high * random.choice([random.uniform(0.95, 1.0), random.uniform(0.3, 0.95)])
    thick = max(1, round(page.side * random.uniform(0.006, 0.03)))
    lines = np.zeros_like(page.ink)
    lines[int(at) : int(at) + thick] = 1
    start = int(random.uniform(0, 0.1) * page.side)
    lines[:, :start] = 0
    page.add(lines, random.uniform(0.3, 0.9))
    return finish(page.tone(), random, noise=2.0)


def equal_lightness(digit: Grey, random: Random) -> bytes:
    """Ink and paper of different colours that a grey picture does not tell apart."""
    page = sheet(digit, random)
    paper, ink = _two_colours(random)
    colours = paper + (ink - paper) * page.ink[:, :, None]
    colours += random.normal(0, random.uniform(0, 3), colours.shape)
    return encode(np.rint(colours).clip(0, 255).astype(np.uint8), random)


def _two_colours(random: Random) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Two colours, red, green and blue, far apart but of the same lightness within two levels."""
    while True:
        one, two = random.uniform(20, 235, (2, 3))
        two += float((one - two) @ LUMA)
        if two.min() >= 0 and two.max() <= 255 and np.abs(one - two).max() > 80:
            return one, two + random.uniform(-2, 2)


def low_contrast(digit: Grey, random: Random) -> bytes:
    """Ink that is 7 to 14 grey levels from its paper."""
    page = sheet(digit, random, replace(SCENE, paper=(60, 245)))
    page.contrast = random.uniform(7, 14) / page.paper
    noisy = page.tone() + random.normal(0, random.uniform(0, 0.6), page.ink.shape)
    grey = np.rint(noisy).clip(0, 255).astype(np.uint8)
    return png(255 - grey if random.random() < NEGATIVE else grey)


Kind = Callable[[Grey, Random], bytes]

KINDS: Final = MappingProxyType(
    {
        kind.__name__.replace("_", "-"): kind
        for kind in (
            frame_cut_by_the_picture,
            frame_inside_the_picture,
            two_edges_of_a_cell,
            ruled_paper,
            squared_paper,
            hard_shadow,
            edge_of_the_table,
            finger_at_the_rim,
            paper_on_dark_table,
            card_on_transparent_canvas,
            no_margin,
            detached_heavy_bar,
            scan_line,
            equal_lightness,
            low_contrast,
        )
    }
)
"""Every kind by name. `detached-heavy-bar` is meant for fives: other digits may lose their shape."""


def pictures(name: str, digits: Grey, seed: int) -> Iterator[bytes]:
    """Yield a picture of a kind for each digit, uint8 `[n, 28, 28]`; the same seed gives the same pictures."""
    random = np.random.default_rng(seed)
    for digit in digits:
        yield KINDS[name](digit, random)


def _turned(canvas: npt.NDArray[np.float64], degrees: float) -> npt.NDArray[np.float64]:
    height, width = canvas.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 0.9)
    return np.asarray(cv2.warpAffine(canvas, turn, (width, height)), np.float64)


def _fitted(pixels: Floats, shape: tuple[int, ...]) -> Floats:
    return np.asarray(cv2.resize(pixels, (shape[1], shape[0]), interpolation=cv2.INTER_LINEAR), np.float32)


def _whole(point: tuple[float, float]) -> tuple[int, int]:
    return round(point[0]), round(point[1])
