"""Finds the handwritten digit in a grey picture and frames it as MNIST's authors framed theirs.

Twice the same steps, coarse on the whole picture, then fine on the digit's surroundings: fit a smooth background
(light is uneven, paper is not white), take what differs from it in the direction of the ink, split with Otsu's
threshold, keep the strokes that belong together. Then the digit is scaled into a box of 20x20 that keeps its
proportions, and its centre of mass put in the middle of 28x28 (LeCun et al., 1998).
"""

import math
from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from service.errors import Invalid

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Mask = npt.NDArray[np.uint8]

SIZE: Final = 28
BOX: Final = 20
MIDDLE: Final = 14

COARSE_SIDE: Final = 256
FINE_SIDE: Final = 144
LEAST_CONTRAST: Final = 12.0
"""Grey levels, of 255, between ink and paper; below it a picture is blank."""
LEAST_CONTRAST_TO_NOISE: Final = 6.0
LEAST_SHARE: Final = 0.3
"""Of the strongest contrast: fainter pixels are no ink, whatever Otsu says."""
MARGIN: Final = 0.4
"""Surroundings of the digit that the fine step sees, as a share of its size: detached strokes may lie there."""
LEAST_INK: Final = (0.0004, 0.015)
"""Share of the picture that the digit's ink takes at least, in the coarse and in the fine step."""
NOISE_QUANTILE: Final = 0.01
"""Share of the pixels that noise may exceed on the side away from ink."""
MOST_NOISE: Final = 0.35
"""Of the strongest contrast; what looks like more noise is a background that the surface does not fit."""
FAINT: Final = 0.5
"""Of what is surely ink; a stroke may fade to it."""
SPECK: Final = 0.01
"""Of the largest stroke's area; what is smaller is dirt or noise."""
RIM_SHARE: Final = 0.3
"""What counts of the ink of strokes that touch the rim: they are more often shadows and edges of paper."""
GAP: Final = 0.2
"""Strokes closer than this share of the digit's size belong together."""
LEAST_STROKE: Final = 1.6
"""Pixels of the box; a finer pen's strokes are widened to it, or they would fade when the digit is scaled down."""

GRID: Final = 24
"""The background is fitted to the picture averaged down to this many rows and columns."""

cv2.setNumThreads(1)  # one request, one core: the server runs many side by side


class Ink(NamedTuple):
    """What differs from the background, and which of it is the digit."""

    contrast: Floats
    """`[height, width]`, 0 where there is background to 1 where there is ink."""
    strokes: Mask
    """The digit's strokes, `[height, width]`, 0 or 1."""
    sign: float
    """+1 for ink lighter than the background, -1 for darker."""


def frame(grey: Grey) -> Grey:
    """The digit of a picture of any size, dark on light or light on dark, as uint8 `[28, 28]`, 0 background to 255 ink.

    A picture that is framed as MNIST's already comes back untouched.

    Raises:
        Invalid: there is nothing in the picture that stands out from its background.
    """
    if grey.shape == (SIZE, SIZE):
        for candidate in (grey, 255 - grey):
            if _is_framed(candidate):
                return candidate
    coarse = _resized(grey, COARSE_SIDE, enlarge=False)
    found = _find_ink(coarse, LEAST_INK[0])
    around = _resized(_surroundings(found.strokes, grey), FINE_SIDE, enlarge=True)
    return _centre(_scale(_find_ink(around, LEAST_INK[1], found.sign)))


def _is_framed(picture: Grey) -> bool:
    """Whether ink fills a box of 20 and its centre of mass is in the middle, as in every picture of MNIST."""
    _, _, width, height = cv2.boundingRect(picture)
    if not BOX - 2 <= max(width, height) <= BOX:
        return False
    mass = cv2.moments(picture)
    return all(abs(mass[moment] / mass["m00"] - MIDDLE) < 0.51 for moment in ("m10", "m01"))


def _resized(grey: Grey, side: int, *, enlarge: bool) -> Grey:
    """The picture with its longer side at `side`; a smaller one only if `enlarge`."""
    height, width = grey.shape
    scale = side / max(height, width)
    if scale > 1 and not enlarge:
        return grey
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_LINEAR if scale > 1 else cv2.INTER_AREA
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)


def _find_ink(grey: Grey, least_ink: float, sign: float | None = None) -> Ink:
    """What stands out from the background of a picture of which at least the share `least_ink` is ink.

    Args:
        sign: +1 for ink lighter than the background, -1 for darker; None to find out.

    Raises:
        Invalid: nothing stands out.
    """
    smooth: Floats = np.asarray(cv2.GaussianBlur(grey, (0, 0), 0.8), np.float32)
    difference = smooth - _background(smooth)
    if sign is None:
        sign = 1.0 if float((difference * difference * difference).sum()) > 0 else -1.0
    signed = np.float32(sign) * difference
    contrast = np.clip(signed, 0, 255)
    peak = _level(contrast, least_ink)
    if peak < max(LEAST_CONTRAST, LEAST_CONTRAST_TO_NOISE * _noise(smooth)):
        raise _nothing()
    share = np.minimum(contrast * np.float32(1 / peak), 1)
    otsu, _ = cv2.threshold((share * 255).astype(np.uint8), 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    # On the side away from ink there is noise alone.
    noise = min(_level(np.clip(-signed, 0, 255), NOISE_QUANTILE) / peak, MOST_NOISE)
    sure = max(otsu / 255, LEAST_SHARE, 1.5 * noise)
    return Ink(share, _main_strokes(share, sure, max(FAINT * sure, noise)), sign)


def _nothing() -> Invalid:
    return Invalid("No digit is found in the picture: nothing stands out from its background")


def _level(values: Floats, share: float) -> float:
    """The level, 0 to 255, that the given share of the pixels exceeds."""
    counts = np.bincount(values.astype(np.uint8).ravel(), minlength=256)
    return float(np.searchsorted(np.cumsum(counts), (1 - share) * values.size)) + 0.5


def _noise(picture: Floats) -> float:
    """Standard deviation of what is left of the sensor's noise, from the differences of neighbours."""
    steps = np.abs(picture[::2, 1:] - picture[::2, :-1])[:, ::2]
    return 1.5 * float(np.median(steps)) if steps.size else 0.0


def _background(picture: Floats) -> Floats:
    """A quadratic surface through the paper; robust, since ink is far from it, and at first sure of the rim alone."""
    values = cv2.resize(picture, (GRID, GRID), interpolation=cv2.INTER_AREA).ravel()
    weights = _RIM
    for _ in range(5):
        weighted = _TERMS * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ _TERMS + _RIDGE, weighted.T @ values)
        error = np.abs(values - _TERMS @ coefficients)
        spread = max(2.0, 2.2 * float(np.partition(error, GRID * GRID // 3)[GRID * GRID // 3]))
        weights = _RIM / (1 + (error / (1.5 * spread)) ** 2) ** 2
    height, width = picture.shape
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None, :]
    c = coefficients
    # A sum of a column, a row and their product, so that only the last step handles every pixel, in single precision.
    column, row = c[0] + c[1] * y + c[3] * y * y, c[2] * x + c[5] * x * x
    single = np.float32
    surface: Floats = column.astype(single) + row.astype(single) + (c[4] * y).astype(single) * x.astype(single)
    return surface


def _terms() -> npt.NDArray[np.float64]:
    y, x = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1, 1, GRID)] * 2, indexing="ij"))
    return np.stack([np.ones_like(x), y, x, y * y, x * y, x * x], axis=1)


_TERMS: Final = _terms()
_RIDGE: Final = 1e-3 * np.eye(6)
_RIM: Final = np.where(np.abs(_TERMS[:, 1:3]).max(axis=1) > 0.85, 1.0, 0.2)


def _main_strokes(share: Floats, sure: float, faint: float) -> Mask:
    """The strokes with most ink, and those near enough to belong to them; what touches the rim counts less.

    Where a stroke is above `sure` somewhere, all of it that is above `faint` belongs to it: the pen was lifted slowly.
    """
    count, pieces, boxes, _ = cv2.connectedComponentsWithStats((share > faint).astype(np.uint8))
    area = boxes[:, cv2.CC_STAT_AREA] * (np.bincount(pieces[share > sure], minlength=count) > 0)
    area[0] = 0
    largest = int(area.argmax())
    if area[largest] == 0:
        raise _nothing()
    kept = area >= max(1, SPECK * area[largest])
    mask: Mask = kept[pieces].astype(np.uint8)
    size = max(boxes[largest, cv2.CC_STAT_WIDTH], boxes[largest, cv2.CC_STAT_HEIGHT])
    reach = 2 * max(1, round(GAP * size / 2)) + 1
    _, labels = cv2.connectedComponents(cv2.dilate(mask, np.ones((reach, reach), np.uint8)))
    rows, columns = np.nonzero(mask)
    groups = labels[rows, columns]
    ink = np.bincount(groups, share[rows, columns])
    height, width = mask.shape
    rim = (rows == 0) | (columns == 0) | (rows == height - 1) | (columns == width - 1)
    ink[np.unique(groups[rim])] *= RIM_SHARE
    others = groups != int(ink.argmax())
    mask[rows[others], columns[others]] = 0
    return mask


def _surroundings(strokes: Mask, grey: Grey) -> Grey:
    """The part of the picture in which strokes, found in a smaller copy of it, lie with a margin."""
    x, y, width, height = cv2.boundingRect(strokes)
    extra = MARGIN * max(width, height) + 2
    down, across = grey.shape[0] / strokes.shape[0], grey.shape[1] / strokes.shape[1]
    top, left = max(0, int((y - extra) * down)), max(0, int((x - extra) * across))
    bottom, right = math.ceil((y + height + extra) * down), math.ceil((x + width + extra) * across)
    return grey[top:bottom, left:right]


def _scale(ink: Ink) -> Floats:
    """The strokes alone, soft edges kept, scaled so that their longer side is 20; 0 to 1."""
    x, y, width, height = cv2.boundingRect(ink.strokes)
    scale = BOX / max(width, height)
    near = cv2.dilate(ink.strokes, np.ones((5, 5), np.uint8))
    soft: Floats = ink.contrast * near
    inside = cv2.distanceTransform(ink.strokes, cv2.DIST_L2, 3)
    stroke = 4 * float(inside[ink.strokes > 0].mean())
    if stroke * scale < LEAST_STROKE:
        radius = max(1, round((LEAST_STROKE / scale - stroke) / 2))
        pen = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
        soft = np.asarray(cv2.dilate(soft, pen), np.float32)
    cut = soft[y : y + height, x : x + width]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small: Floats = np.asarray(cv2.resize(cut, size, interpolation=how), np.float32)
    full = np.percentile(small[small > 0.1], 90)
    digit: Floats = np.minimum(small / np.float32(full), np.float32(1))
    return digit


def _centre(digit: Floats) -> Grey:
    """The digit with its centre of mass in the middle of 28x28; what would lie outside is cut off."""
    height, width = digit.shape
    mass = digit.sum()
    y = float(digit.sum(1) @ np.arange(height)) / mass
    x = float(digit.sum(0) @ np.arange(width)) / mass
    top, left = MIDDLE - round(y), MIDDLE - round(x)
    room = np.zeros((SIZE + 2 * BOX, SIZE + 2 * BOX), np.float32)
    room[BOX + top : BOX + top + height, BOX + left : BOX + left + width] = digit
    return np.rint(room[BOX : BOX + SIZE, BOX : BOX + SIZE] * 255).astype(np.uint8)
