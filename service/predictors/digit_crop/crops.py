"""Find the digit in a picture: dark ink, light ink or, if the picture does not show which, both."""

import math
from typing import Final, NamedTuple

import cv2
import numpy as np

from service.errors import Invalid
from service.predictors.digit_crop.contrast import Floats, Grey, darkness, working_copy
from service.predictors.digit_crop.lines import Mask
from service.predictors.digit_crop.mnist import as_mnist, to_mnist
from service.predictors.digit_crop.strokes import digit_strokes

ZOOM_BELOW: Final = 56
"""Longer side of a digit, in pixels of the working copy, from which it is looked at again from nearer."""
MARGIN: Final = 0.6
"""Surroundings of a digit that is looked at again, as a fraction of its size: detached strokes may lie there."""
RING: Final = (3, 7)
"""Sides of the squares by which strokes are widened to get the ring around them, without their soft edges."""
LEAST_UNEVENNESS: Final = 1.0
"""Grey levels; less is noise and rounding."""
CLEAR: Final = 4.0
"""If one crop's surroundings are this many times as uneven as the other's, the other is the digit."""


class Crop(NamedTuple):
    """What may be the digit of a picture."""

    digit: Grey
    """uint8 `[28, 28]`, 0 background to 255 ink."""
    unevenness: float = LEAST_UNEVENNESS
    """Standard deviation of the tones around the strokes, in grey levels: paper is even, what is around a hole of a
    digit or around an edge is not."""


class _Found(NamedTuple):
    """Strokes in a working copy."""

    picture: Grey
    darkness: Floats
    strokes: Mask


def crops(grey: Grey) -> list[Crop]:
    """Return the one or two crops of a picture that may be its digit, the likelier one first.

    Args:
        grey: uint8 `[height, width]` of any size, dark on light or light on dark. A picture that has MNIST's form
            already comes back untouched.

    Raises:
        Invalid: nothing in the picture stands out from its background.
    """
    if (digit := as_mnist(grey)) is not None:
        return [Crop(digit)]
    found = [crop for dark_ink in (grey, 255 - grey) if (crop := _crop(dark_ink)) is not None]
    if not found:
        raise Invalid("No digit is found in the picture: nothing stands out from its background")
    found.sort(key=lambda crop: crop.unevenness)
    if len(found) == 2 and found[1].unevenness >= CLEAR * found[0].unevenness:
        del found[1]
    return found


def _crop(grey: Grey) -> Crop | None:
    """Return what may be a digit in dark ink."""
    found = _find(grey)
    if found is None:
        return None
    if max(cv2.boundingRect(found.strokes)[2:]) < ZOOM_BELOW < max(grey.shape):
        found = _find(_surroundings(found.strokes, grey)) or found
    return Crop(to_mnist(found.darkness, found.strokes), _unevenness(found))


def _find(grey: Grey) -> _Found | None:
    picture = working_copy(grey)
    dark = darkness(picture)
    if dark is None:
        return None
    strokes = digit_strokes(dark)
    return None if strokes is None else _Found(picture, dark, strokes)


def _surroundings(strokes: Mask, grey: Grey) -> Grey:
    """Return the part of the picture in which strokes, found in its working copy, lie with a margin."""
    x, y, width, height = cv2.boundingRect(strokes)
    extra = MARGIN * max(width, height) + 2
    down, across = grey.shape[0] / strokes.shape[0], grey.shape[1] / strokes.shape[1]
    top, left = max(0, int((y - extra) * down)), max(0, int((x - extra) * across))
    bottom, right = math.ceil((y + height + extra) * down), math.ceil((x + width + extra) * across)
    return grey[top:bottom, left:right]


def _unevenness(found: _Found) -> float:
    near, far = (cv2.dilate(found.strokes, np.ones((side, side), np.uint8)) for side in RING)
    around = found.picture[(far - near) > 0]
    return max(LEAST_UNEVENNESS, float(around.std())) if around.size else LEAST_UNEVENNESS
