"""Finds the handwritten digit in a grey picture and frames it as MNIST's authors framed theirs.

Twice the same steps, coarse on the whole picture, then fine on the digit's surroundings: fit a smooth background (light
is uneven, paper is not white), take what differs from it in the direction of the ink, split with Otsu's threshold, keep
the strokes that belong together. Then the digit is scaled into a box of 20x20 that keeps its proportions, and its centre
of mass put in the middle of 28x28 (LeCun et al., 1998).
"""

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
LEAST_CONTRAST_TO_NOISE: Final = 4.0
MARGIN: Final = 0.4
"""Surroundings of the digit that the fine step sees, as a share of its size: detached strokes may lie there."""
GAP: Final = 0.12
"""Strokes closer than this share of the digit's size belong together."""
LEAST_STROKE: Final = 1.6
"""Pixels of the box; a finer pen's strokes are widened to it, or they would fade when the digit is scaled down."""

cv2.setNumThreads(1)  # one request, one core: the server runs many side by side


class Ink(NamedTuple):
    """What differs from the background: how much, float32 `[height, width]` with 0 for background, and the mask of the
    strokes that make up the digit, uint8 of the same shape, 0 or 1."""

    contrast: Floats
    strokes: Mask
    sign: float


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
    coarse = _shrink(grey, COARSE_SIDE)
    found = _find_ink(coarse)
    box = _box(found.strokes, MARGIN) * (grey.shape[0] / coarse.shape[0])
    top, bottom, left, right = (int(edge) for edge in np.rint(box))
    fine = _find_ink(_zoom(grey[top:bottom, left:right]), found.sign)
    return _centre(_scale(fine))


def _is_framed(picture: Grey) -> bool:
    """Whether ink fills a box of 20 and its centre of mass is in the middle, as in every picture of MNIST."""
    x, y, width, height = cv2.boundingRect(picture)
    if not BOX - 2 <= max(width, height) <= BOX:
        return False
    mass = cv2.moments(picture)
    return all(abs(mass[moment] / mass["m00"] - MIDDLE) < 0.51 for moment in ("m10", "m01"))


def _shrink(grey: Grey, side: int) -> Grey:
    scale = side / max(grey.shape)
    if scale >= 1:
        return grey
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.uint8)


def _zoom(grey: Grey) -> Grey:
    """The picture with its longer side at `FINE_SIDE`, up or down."""
    scale = FINE_SIDE / max(grey.shape)
    if scale <= 1:
        return _shrink(grey, FINE_SIDE)
    size = max(1, round(grey.shape[1] * scale)), max(1, round(grey.shape[0] * scale))
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _find_ink(grey: Grey, sign: float | None = None) -> Ink:
    """Raises Invalid if nothing stands out. `sign` is +1 for light ink, -1 for dark; None to find out."""
    smooth = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), 0.8)
    difference = smooth - _background(smooth)
    if sign is None:
        sign = 1.0 if float((difference * difference * difference).sum()) > 0 else -1.0
    contrast = np.maximum(np.float32(sign) * difference, 0)
    noise = 1.4826 * float(np.median(np.abs(difference[::2, ::2])))
    peak = float(np.percentile(contrast, 99.9))
    if peak < max(LEAST_CONTRAST, LEAST_CONTRAST_TO_NOISE * noise):
        raise Invalid("No digit is found in the picture: it is blank")
    level = np.minimum(contrast * (255.0 / peak), 255.0).astype(np.uint8)
    otsu, _ = cv2.threshold(level, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    threshold = max(otsu, 0.3 * 255, 255 * 2.5 * noise / peak)
    mask = (level > threshold).astype(np.uint8)
    return Ink(np.minimum(contrast / peak, 1.0), _main_strokes(mask, contrast), sign)


def _background(picture: Floats) -> Floats:
    """A quadratic surface through the paper: robust, since ink is far from it, and sure of the picture's rim at first."""
    small = cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA)
    terms, rim = _TERMS_SMALL, _RIM
    values = small.ravel()
    weights = rim
    for _ in range(6):
        weighted = terms * weights[:, None]
        coefficients = np.linalg.solve(weighted.T @ terms + 1e-3 * np.eye(terms.shape[1]), weighted.T @ values)
        error = np.abs(values - terms @ coefficients)
        spread = max(2.0, 1.4826 * float(np.median(error)))
        weights = 1 / (1 + (error / (1.5 * spread)) ** 2) ** 2
    height, width = picture.shape
    return np.asarray(_surface(coefficients, height, width), np.float32)


def _surface(c: npt.NDArray[np.float64], height: int, width: int) -> npt.NDArray[np.float64]:
    y = np.linspace(-1, 1, height)[:, None] if height > 1 else np.zeros((1, 1))
    x = np.linspace(-1, 1, width)[None, :] if width > 1 else np.zeros((1, 1))
    result: npt.NDArray[np.float64] = (c[0] + c[1] * y + c[3] * y * y) + (c[2] * x + c[5] * x * x) + c[4] * y * x
    return result


def _terms(size: int) -> npt.NDArray[np.float64]:
    y, x = (grid.ravel() for grid in np.meshgrid(*(2 * [np.linspace(-1, 1, size)]), indexing="ij"))
    return np.stack([np.ones_like(x), y, x, y * y, x * y, x * x], axis=1)


_TERMS_SMALL: Final = _terms(32)
_RIM: Final = np.where(np.abs(_TERMS_SMALL[:, 1:3]).max(1) > 0.85, 1.0, 0.2)


def _main_strokes(mask: Mask, contrast: Floats) -> Mask:
    """The strokes with most ink, and those near enough to belong to them."""
    reach = max(1, round(GAP * max(_extent(mask, contrast)) / 2))
    grown = cv2.dilate(mask, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    count, labels, boxes, _ = cv2.connectedComponentsWithStats(grown)
    if count == 1:
        raise Invalid("No digit is found in the picture: it is blank")
    labels = labels * mask
    ink = np.bincount(labels.ravel(), (contrast * mask).ravel(), minlength=count)
    ink[0] = -1
    height, width = mask.shape
    outside = (
        (boxes[:, 0] == 0) * 1
        + (boxes[:, 1] == 0)
        + (boxes[:, 0] + boxes[:, 2] == width)
        + (boxes[:, 1] + boxes[:, 3] == height)
    )
    ink = np.where(outside > 0, ink * 0.3, ink)
    return (labels == int(ink.argmax())).astype(np.uint8)


def _extent(mask: Mask, contrast: Floats) -> tuple[int, int]:
    """Width and height of the largest connected stroke."""
    _, labels, boxes, _ = cv2.connectedComponentsWithStats(mask)
    if len(boxes) == 1:
        return 1, 1
    largest = 1 + int(boxes[1:, cv2.CC_STAT_AREA].argmax())
    return int(boxes[largest, cv2.CC_STAT_WIDTH]), int(boxes[largest, cv2.CC_STAT_HEIGHT])


def _box(strokes: Mask, margin: float) -> npt.NDArray[np.float64]:
    """Top, bottom, left, right of the strokes with a margin, inside the picture."""
    x, y, width, height = cv2.boundingRect(strokes)
    extra = margin * max(width, height) + 2
    return np.array(
        [
            max(0, y - extra),
            min(strokes.shape[0], y + height + extra),
            max(0, x - extra),
            min(strokes.shape[1], x + width + extra),
        ]
    )


def _scale(ink: Ink) -> Floats:
    """The strokes alone, soft edges kept, scaled so that their longer side is 20; 0 to 1."""
    x, y, width, height = cv2.boundingRect(ink.strokes)
    scale = BOX / max(width, height)
    near = cv2.dilate(ink.strokes, np.ones((5, 5), np.uint8))
    soft = ink.contrast * near
    inside = cv2.distanceTransform(ink.strokes, cv2.DIST_L2, 3)
    stroke = 4 * float(inside[ink.strokes > 0].mean())
    if stroke * scale < LEAST_STROKE:
        radius = max(1, round((LEAST_STROKE / scale - stroke) / 2))
        soft = cv2.dilate(soft, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2))
    cut = soft[y : y + height, x : x + width]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(cut, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    full = float(np.percentile(small[small > 0.1], 90))
    return np.minimum(np.asarray(small, np.float32) / full, 1.0)


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
