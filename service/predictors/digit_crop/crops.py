"""Find the digit in a picture: dark ink, light ink or, if the picture does not show which, both."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np

from service.errors import Invalid
from service.predictors.digit_crop.contrast import Floats, Grey, darkness, overall_darkness, working_copy
from service.predictors.digit_crop.lines import Mask
from service.predictors.digit_crop.mnist import as_mnist, to_mnist
from service.predictors.digit_crop.strokes import digit_strokes

MOST_CROPS: Final = 4
"""Of one picture: dark and light ink, by contrast with the surroundings and by that of the whole picture."""
ZOOM_BELOW: Final = 56
"""Longer side of a digit, in pixels of the working copy, up to which it is looked at again from nearer."""
MARGIN: Final = 0.6
"""Surroundings of a digit that is looked at again, as a fraction of its size: detached strokes may lie there."""
RING: Final = (3, 7)
"""Sides of the squares by which strokes are widened to get the ring around them, without their soft edges."""
LEAST_UNEVENNESS: Final = 1.0
"""Grey levels; less is noise and rounding."""
CLEAR: Final = 4.0
"""A crop whose surroundings are this many times as uneven as another's is no digit. Of 5,000 crops of validation
pictures for which this holds, four were digits."""


class Crop(NamedTuple):
    """What may be the digit of a picture."""

    digit: Grey
    """uint8 `[28, 28]`, 0 background to 255 ink."""
    unevenness: float = LEAST_UNEVENNESS
    """Standard deviation of the tones around the strokes, in grey levels. The paper around a digit is even; what lies
    around the hole of a digit or the edge of a shadow is not."""


class Ink(NamedTuple):
    """Dark strokes in the working copy of a picture."""

    picture: Grey
    darkness: Floats
    strokes: Mask


def crops(grey: Grey) -> list[Crop]:
    """Return what may be the digit of a picture, one to `MOST_CROPS` crops, the one in the most even surroundings first.

    Args:
        grey: uint8 `[height, width]` of any size, dark on light or light on dark. A picture that has MNIST's form
            already comes back untouched.

    Raises:
        Invalid: nothing in the picture stands out from its background.
    """
    if (digit := as_mnist(grey)) is not None:
        return [Crop(digit)]
    both = (grey, 255 - grey)
    found = [ink for dark_ink in both if (ink := _local_ink(dark_ink)) is not None]
    if not found or _touched_rims(min(found, key=_unevenness).strokes) > 1:
        found += [ink for dark_ink in both if (ink := _overall_ink(dark_ink)) is not None]
    if not found:
        raise Invalid("No digit is found in the picture: nothing stands out from its background")
    return _likely([Crop(to_mnist(ink.darkness, ink.strokes), _unevenness(ink)) for ink in found])


def _likely(found: Sequence[Crop]) -> list[Crop]:
    """Leave out the crops whose surroundings show that they are no digit."""
    first, *others = sorted(found, key=lambda crop: crop.unevenness)
    return [first, *(crop for crop in others if crop.unevenness < CLEAR * first.unevenness)]


def _local_ink(grey: Grey) -> Ink | None:
    """Return the most prominent strokes that are darker than their surroundings, seen from near if they are small."""
    ink = _darker_than_surroundings(grey)
    if ink is not None and max(cv2.boundingRect(ink.strokes)[2:]) < ZOOM_BELOW < max(grey.shape):
        return _darker_than_surroundings(_surroundings(ink.strokes, grey)) or ink
    return ink


def _darker_than_surroundings(grey: Grey) -> Ink | None:
    picture = working_copy(grey)
    dark = darkness(picture)
    if dark is None or (strokes := digit_strokes(dark)) is None:
        return None
    return Ink(picture, dark, strokes)


def _overall_ink(grey: Grey) -> Ink | None:
    """Return all that is dark in a picture of two tones: a digit that fills it."""
    picture = working_copy(grey)
    dark = overall_darkness(picture)
    return None if dark is None else Ink(picture, dark, (dark > 0).astype(np.uint8))


def _surroundings(strokes: Mask, grey: Grey) -> Grey:
    """Return the part of the picture in which strokes, found in its working copy, lie with a margin."""
    x, y, width, height = cv2.boundingRect(strokes)
    extra = MARGIN * max(width, height) + 2
    down, across = grey.shape[0] / strokes.shape[0], grey.shape[1] / strokes.shape[1]
    top, left = max(0, int((y - extra) * down)), max(0, int((x - extra) * across))
    bottom, right = math.ceil((y + height + extra) * down), math.ceil((x + width + extra) * across)
    return grey[top:bottom, left:right]


def _touched_rims(strokes: Mask) -> int:
    return sum(bool(rim.any()) for rim in (strokes[0], strokes[-1], strokes[:, 0], strokes[:, -1]))


def _unevenness(ink: Ink) -> float:
    near, far = (cv2.dilate(ink.strokes, np.ones((side, side), np.uint8)) for side in RING)
    around = ink.picture[far > near]
    return max(LEAST_UNEVENNESS, float(around.std())) if around.size else LEAST_UNEVENNESS
