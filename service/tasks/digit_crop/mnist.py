"""The form of MNIST's digits: a box of 20x20, with its centre of mass in the middle of 28x28."""

from typing import Final

import cv2
import numpy as np

from service.tasks.digit_crop.contrast import Floats, Grey
from service.tasks.digit_crop.lines import Mask

SIZE: Final = 28
BOX: Final = 20
MIDDLE: Final = 14
MIN_STROKE: Final = 1.6
"""Minimum width of strokes in pixels of the box. Finer strokes are widened, or they would fade when scaled down."""
SOFT_EDGE: Final = 5
"""Side in pixels of the square that dilates a stroke to include its soft edges."""


def as_mnist(grey: Grey) -> Grey | None:
    """Return the picture or its negative, light on dark, if it has MNIST's form; None otherwise."""
    if grey.shape == (SIZE, SIZE):
        for picture in (grey, 255 - grey):
            if _is_mnist(picture):
                return picture
    return None


def _is_mnist(picture: Grey) -> bool:
    """Return whether ink fills a box of 20 and its centre of mass is in the middle, as in all of MNIST."""
    _, _, width, height = cv2.boundingRect(picture)
    if not BOX - 2 <= max(width, height) <= BOX:
        return False
    mass = cv2.moments(picture)
    return all(abs(mass[moment] / mass["m00"] - MIDDLE) < 0.51 for moment in ("m10", "m01"))


def to_mnist(darkness: Floats, strokes: Mask) -> Grey:
    """Return the strokes in MNIST's form, uint8 `[28, 28]`, 0 background to 255 ink.

    Args:
        darkness: `[height, width]`, 0 to 1.
        strokes: of the digit, at least one pixel; uint8 `[height, width]`, 0 or 1.
    """
    return _centred(_scaled(darkness, strokes))


def _scaled(darkness: Floats, strokes: Mask) -> Floats:
    """Return the strokes with their soft edges, scaled to a longer side of 20; 0 to 1."""
    x, y, width, height = cv2.boundingRect(strokes)
    scale = BOX / max(width, height)
    soft: Floats = darkness * cv2.dilate(strokes, np.ones((SOFT_EDGE, SOFT_EDGE), np.uint8))
    radius = round((MIN_STROKE / scale - 1) / 2)
    if radius > 0:
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        fine = soft * (cv2.morphologyEx(strokes, cv2.MORPH_OPEN, pen) == 0)
        soft = np.maximum(soft, cv2.dilate(fine, pen))
    cut = soft[y : y + height, x : x + width]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small: Floats = np.asarray(cv2.resize(cut, size, interpolation=how), np.float32)
    full = np.percentile(small[small > 0.1], 90)
    return np.asarray(np.minimum(small / np.float32(full), np.float32(1)), np.float32)


def _centred(digit: Floats) -> Grey:
    """Return the digit with its centre of mass in the middle of 28x28, cut off at the border."""
    height, width = digit.shape
    mass = digit.sum()
    y = float(digit.sum(1) @ np.arange(height)) / mass
    x = float(digit.sum(0) @ np.arange(width)) / mass
    top, left = MIDDLE - round(y), MIDDLE - round(x)
    canvas = np.zeros((SIZE + 2 * BOX, SIZE + 2 * BOX), np.float32)
    canvas[BOX + top : BOX + top + height, BOX + left : BOX + left + width] = digit
    return np.rint(canvas[BOX : BOX + SIZE, BOX : BOX + SIZE] * 255).astype(np.uint8)
