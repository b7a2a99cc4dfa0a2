"""Find the digit in a picture: dark ink, light ink or, if the picture does not show which, both."""

import math
from collections.abc import Sequence
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from service.errors import Invalid
from service.tasks.digit_crop.contrast import Floats, Grey, darkness, overall_darkness, working_copy
from service.tasks.digit_crop.lines import Mask
from service.tasks.digit_crop.mnist import as_mnist, to_mnist
from service.tasks.digit_crop.strokes import digit_strokes

MAX_CROPS: Final = 6
"""Maximum number for a picture: dark and light ink, each with and without uncertain pieces, or all of one tone."""
ZOOM_BELOW: Final = 56
"""Longer side of a digit, in pixels of the working copy, below which a closer copy of it is analysed."""
MARGIN: Final = 0.6
"""Margin around the digit in the closer copy, as a fraction of its size: detached strokes may lie there."""
RING: Final = (3, 7)
"""Sides of the squares that dilate strokes to the inner and outer edge of the ring around them."""
MIN_UNEVENNESS: Final = 1.0
"""Minimum unevenness in grey levels; lower values are noise and rounding."""
SURROUNDED: Final = 0.9
"""Minimum fraction of the ring around strokes that ink of the other tone covers if the strokes may be a hole."""
HOLE: Final = 3.0
"""Factor of the unevenness of strokes that may be the hole of a 0, 6, 8 or 9. They are not excluded: a light digit on a
narrow dark card is surrounded too."""
LEFT_OUT: Final = 2.0
"""Factor of the unevenness of strokes without a nearby piece that may belong to them."""
ROUNDING: Final = 0.5
"""Rounding error in grey levels."""
STILL: Final = 0.06
"""Maximum darkness of most pixels in a picture without relevant noise."""
MIN_SEPARATION: Final = 1.8
"""Minimum difference of ink and the tones around it, in standard deviations. In 78 blank pictures with noise, the
median was 0.7 and the 95th percentile 1.8."""
CLEAR: Final = 8.0
"""A crop is dropped if its surroundings are this many times as uneven as those of the best crop. A larger factor
computes more rows and reads no more validation pictures correctly."""


class Crop(NamedTuple):
    """A part of a picture that may be the digit."""

    digit: Grey
    """uint8 `[28, 28]`, 0 background to 255 ink."""
    unevenness: float = MIN_UNEVENNESS
    """Standard deviation of the tones around the strokes, in grey levels: low on the paper around a digit, high around
    the hole of a digit or the edge of a shadow."""


class Ink(NamedTuple):
    """Dark strokes in the working copy of a picture."""

    picture: Grey
    darkness: Floats
    strokes: Mask
    is_whole: bool = True
    """Whether the strokes include every nearby piece that may belong to them."""
    may_be_hole: bool = False
    """Whether ink of the other tone surrounds the strokes."""


def crops(grey: Grey) -> list[Crop]:
    """Return one to `MAX_CROPS` crops that may be the digit, ordered by the unevenness of their surroundings.

    Args:
        grey: uint8 `[height, width]` of any size, dark on light or light on dark. A picture in MNIST's form
            is returned unchanged.

    Raises:
        Invalid: the picture is blank.
    """
    if (digit := as_mnist(grey)) is not None:
        return [Crop(digit)]
    picture = working_copy(grey)
    dark, light = _darker_than_surroundings(picture), _darker_than_surroundings(255 - picture)
    dark, light = _mark_holes(dark, light), _mark_holes(light, dark)
    found = _nearer(dark, grey, negative=False) + _nearer(light, grey, negative=True)
    if not found or _touched_rims(min(found, key=_unevenness).strokes) > 1:
        found += _overall_ink(picture) + _overall_ink(255 - picture)
    if not found:
        raise Invalid("No digit is found in the picture: nothing stands out from its background")
    return _likely([Crop(to_mnist(ink.darkness, ink.strokes), _unevenness(ink)) for ink in found])


def _likely(found: Sequence[Crop]) -> list[Crop]:
    """Drop crops whose surroundings show that they are not a digit."""
    first, *others = sorted(found, key=lambda crop: crop.unevenness)
    return [first, *(crop for crop in others if crop.unevenness < CLEAR * first.unevenness)]


def _mark_holes(found: list[Ink], others: list[Ink]) -> list[Ink]:
    """Mark ink that ink of the other tone surrounds: it may be the hole of a digit."""
    return [ink._replace(may_be_hole=_is_surrounded(ink, others)) for ink in found]


def _is_surrounded(ink: Ink, others: Sequence[Ink]) -> bool:
    around = _ring(ink.strokes)
    return bool(around.any()) and any(other.strokes[around].mean() >= SURROUNDED for other in others)


def _nearer(found: list[Ink], grey: Grey, *, negative: bool) -> list[Ink]:
    """Analyse small strokes again in a closer working copy, of the inverted picture if `negative`."""
    if not found or not max(cv2.boundingRect(found[-1].strokes)[2:]) < ZOOM_BELOW < max(grey.shape):
        return found
    near = working_copy(_surroundings(found[-1].strokes, grey))
    nearer = _darker_than_surroundings(255 - near if negative else near)
    return [ink._replace(may_be_hole=found[-1].may_be_hole) for ink in nearer] or found


def _darker_than_surroundings(picture: Grey) -> list[Ink]:
    """Return the most prominent strokes of a working copy that are darker than their surroundings."""
    dark = darkness(picture)
    if dark is None:
        return []
    dark, masks = digit_strokes(dark)
    found = [Ink(picture, dark, strokes, is_whole=strokes is masks[-1]) for strokes in masks]
    return [ink for ink in found if not _is_noise(ink)]


def _overall_ink(picture: Grey) -> list[Ink]:
    """Return everything dark in a working copy of two tones: a digit that fills the picture."""
    dark = overall_darkness(picture)
    return [] if dark is None else [Ink(picture, dark, (dark > 0).astype(np.uint8))]


def _surroundings(strokes: Mask, grey: Grey) -> Grey:
    """Return the part of the picture around strokes that were found in its working copy."""
    x, y, width, height = cv2.boundingRect(strokes)
    extra = MARGIN * max(width, height) + 2
    down, across = grey.shape[0] / strokes.shape[0], grey.shape[1] / strokes.shape[1]
    top, left = max(0, int((y - extra) * down)), max(0, int((x - extra) * across))
    bottom, right = math.ceil((y + height + extra) * down), math.ceil((x + width + extra) * across)
    return grey[top:bottom, left:right]


def _touched_rims(strokes: Mask) -> int:
    return sum(bool(rim.any()) for rim in (strokes[0], strokes[-1], strokes[:, 0], strokes[:, -1]))


def _is_noise(ink: Ink) -> bool:
    """Return whether the strokes hardly differ from the noise of the paper around them."""
    if 2 * np.count_nonzero(ink.darkness > STILL) <= ink.darkness.size:
        return False
    around = _tones_around(ink)
    paper = np.median(around) if around.size else 0.0
    deviation = 1.4826 * float(np.median(np.abs(around - paper))) + ROUNDING if around.size else ROUNDING
    return float(paper - np.median(ink.picture[ink.strokes > 0])) < MIN_SEPARATION * deviation


def _unevenness(ink: Ink) -> float:
    around = _tones_around(ink)
    deviation = float(around.std()) if around.size else 0.0
    factor = (1 if ink.is_whole else LEFT_OUT) * (HOLE if ink.may_be_hole else 1)
    return max(MIN_UNEVENNESS, deviation) * factor


def _tones_around(ink: Ink) -> Grey:
    return ink.picture[_ring(ink.strokes)]


def _ring(strokes: Mask) -> npt.NDArray[np.bool_]:
    near, far = (cv2.dilate(strokes, np.ones((side, side), np.uint8)) for side in RING)
    return np.asarray(far > near)
