"""Draw a digit and straight lines on a sheet of paper and encode it: what all difficult pictures share."""

import io
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from training.digits.photographs import Floats, Grey, Scene, place

Colour = npt.NDArray[np.uint8]
Random = np.random.Generator

SCENE: Final = Scene(height=(100, 400), aspect=(0.8, 1.25), digit=(0.4, 0.75), contrast=(0.55, 0.95))
"""A digit in the middle of a form field, a cell or a sheet."""
NEGATIVE: Final = 0.2
"""Fraction of the grey pictures that are light on dark."""


@dataclass
class Sheet:
    """A digit on plain paper, to which a kind adds what makes it difficult."""

    ink: Floats
    """Coverage by ink, `[height, width]`, 0 to 1."""
    paper: float
    """Grey level of the paper."""
    contrast: float
    """How much darker the ink is, as a fraction of the paper's level."""

    @property
    def side(self) -> int:
        return int(min(self.ink.shape))

    def add(self, coverage: Floats, strength: float = 1.0) -> None:
        """Draw with the same ink, or with one that is `strength` times as dark."""
        self.ink = np.maximum(self.ink, np.float32(strength) * coverage)

    def tone(self) -> Floats:
        """Grey levels, `[height, width]`, 0 to 255."""
        return np.float32(self.paper) * (1 - np.float32(self.contrast) * self.ink)


def sheet(digit: Grey, random: Random, scene: Scene = SCENE) -> Sheet:
    """Return a digit near the middle of a sheet of random size, with its tones."""
    height = int(random.integers(scene.height[0], scene.height[1], endpoint=True))
    width = int(height * random.uniform(*scene.aspect))
    ink, _ = place(digit, height, width, random, scene)
    ink = _moved_to_the_middle(ink, random)
    return Sheet(ink, random.uniform(*scene.paper), random.uniform(*scene.contrast))


def _moved_to_the_middle(ink: Floats, random: Random, slack: float = 0.35) -> Floats:
    """Shift the digit to the middle, give or take a fraction of the room around it."""
    left, top, width, height = cv2.boundingRect((ink > 0.05).astype(np.uint8))
    room_y, room_x = (ink.shape[0] - height) / 2, (ink.shape[1] - width) / 2
    y, x = room_y * (1 + random.uniform(-slack, slack)), room_x * (1 + random.uniform(-slack, slack))
    return np.roll(ink, (round(y) - top, round(x) - left), (0, 1))


Line = tuple[str, float]
"""`row` or `column`, and which, in pixels."""


def edges_of(page: Sheet, offsets: npt.NDArray[np.float64]) -> list[Line]:
    """Top, bottom, left and right, each at an offset from its rim as a fraction of the side."""
    height, width = page.ink.shape
    top, bottom, left, right = offsets * page.side
    return [("row", top), ("row", height - 1 - bottom), ("column", left), ("column", width - 1 - right)]


def rule(
    page: Sheet,
    random: Random,
    lines: list[Line],
    thickness: tuple[float, float],
    strength: tuple[float, float] = (0.6, 1.0),
) -> None:
    """Draw lines through the whole picture, tilted together by up to 1.5 degrees."""
    thick = max(1, round(random.uniform(*thickness) * page.side))
    coverage = np.zeros_like(page.ink)
    for direction, at in lines:
        start = max(0, round(at - thick / 2))
        if direction == "row":
            coverage[start : start + thick] = 1
        else:
            coverage[:, start : start + thick] = 1
    page.add(tilted(coverage, random.uniform(-1.5, 1.5)), random.uniform(*strength))


def tilted(coverage: Floats, degrees: float) -> Floats:
    """Turn what was drawn; its rim continues outwards."""
    height, width = coverage.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0)
    return np.asarray(cv2.warpAffine(coverage, turn, (width, height), borderMode=cv2.BORDER_REPLICATE), np.float32)


def finish(tone: Floats, random: Random, noise: float = 4.0) -> bytes:
    """Invert some of the pictures, blur, add noise of up to `noise` grey levels, and encode."""
    if random.random() < NEGATIVE:
        tone = np.float32(255) - tone
    sigma = random.uniform(0, 0.006) * max(tone.shape)
    if sigma > 0.3:
        tone = np.asarray(cv2.GaussianBlur(tone, (0, 0), sigma), np.float32)
    noisy = tone + random.normal(0, random.uniform(0, noise), tone.shape)
    return encode(np.rint(noisy).clip(0, 255).astype(np.uint8), random)


def encode(pixels: Grey | Colour, random: Random) -> bytes:
    """As JPEG or PNG."""
    if random.random() < 0.5:
        return png(pixels)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(random.integers(75, 96)))
    return buffer.getvalue()


def png(pixels: Grey | Colour) -> bytes:
    """As PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
