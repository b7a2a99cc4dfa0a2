"""How much darker each pixel of a picture is than its surroundings."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE: Final = 160
"""Longer side of the working copy: three times the resolution that a digit needs."""
MIN_SIDE: Final = 96
"""Longer side to which smaller pictures are enlarged, so that strokes are a few pixels wide."""
SMOOTHING: Final = 0.8
"""Standard deviation in pixels of the Gaussian filter that removes the noise of single pixels."""
NEIGHBOURHOOD: Final = 0.35
"""Side of the surroundings as a fraction of the picture's longer side: wider than any stroke, narrower than paper."""
MIN_CONTRAST: Final = 5.0
"""Minimum contrast of ink and paper, in grey levels of 255."""
MIN_TWO_TONES: Final = 0.8
"""Minimum fraction of the variance that two tones explain. In noise it is 0.64, in a linear gradient 0.75."""
MIN_INK: Final = 0.0004
"""Minimum fraction of the picture that is ink: ten pixels, the smallest readable digit."""


def working_copy(grey: Grey) -> Grey:
    """Return the picture with its longer side between `MIN_SIDE` and `SIDE`, slightly smoothed."""
    height, width = grey.shape
    longest = max(height, width)
    scale = min(SIDE, max(MIN_SIDE, longest)) / longest
    if scale != 1:
        size = max(1, round(width * scale)), max(1, round(height * scale))
        grey = np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC))
    return np.asarray(cv2.GaussianBlur(grey, (0, 0), SMOOTHING), np.uint8)


def darkness(picture: Grey) -> Floats | None:
    """Return how much darker each pixel is than its surroundings, 0 (as they are) to 1 (ink).

    This is the black-hat transform, the morphological closing minus the picture (Serra, Image Analysis and Mathematical
    Morphology, 1982). Slow changes of light, shadows and everything wider than a stroke are removed.

    Args:
        picture: a working copy, uint8 `[height, width]`.

    Returns:
        float32 `[height, width]`; None if no pixel differs enough from its surroundings.
    """
    reach = round(NEIGHBOURHOOD * max(picture.shape) / 2)
    # Replicate the border: otherwise every dark strip along it would be narrower than the surroundings.
    padded = cv2.copyMakeBorder(picture, reach, reach, reach, reach, cv2.BORDER_REPLICATE)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, np.ones((2 * reach + 1, 2 * reach + 1), np.uint8))
    height, width = picture.shape
    contrast = np.asarray(closed[reach : reach + height, reach : reach + width] - picture, np.uint8)
    full = _exceeded_by(contrast, MIN_INK)
    if full < MIN_CONTRAST:
        return None
    return np.asarray(np.minimum(contrast * np.float32(1 / full), np.float32(1)), np.float32)


def overall_darkness(picture: Grey) -> Floats | None:
    """Return how dark each pixel of a picture of two tones is, 0 (the light tone) to 1.

    The tones are split by Otsu's threshold (A threshold selection method from gray-level histograms, 1979).

    Args:
        picture: a working copy, uint8 `[height, width]`.

    Returns:
        float32 `[height, width]`; None if the picture is blank or does not consist of two tones.
    """
    low, high = np.percentile(picture, (1, 99))
    if high - low < MIN_CONTRAST:
        return None
    dark = np.clip((high - picture.astype(np.float32)) / np.float32(high - low), 0, 1)
    levels = (dark * 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    is_dark = levels > otsu
    share = float(is_dark.mean())
    if not 0 < share < 1:
        return None
    between = share * (1 - share) * (float(dark[is_dark].mean()) - float(dark[~is_dark].mean())) ** 2
    if between < MIN_TWO_TONES * float(dark.var()):
        return None
    paper = np.float32(otsu / 510)  # half of the threshold: edges stay soft
    return np.where(is_dark, (dark - paper) / (1 - paper), np.float32(0))


def _exceeded_by(values: npt.NDArray[np.uint8], share: float) -> float:
    """Return the level, 0 to 255, that the given fraction of the pixels exceeds."""
    counts = np.bincount(values.ravel(), minlength=256)
    return float(np.searchsorted(np.cumsum(counts), (1 - share) * values.size))
