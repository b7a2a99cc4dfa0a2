"""Reduce a colour picture to one channel if ink and paper differ in colour but not in lightness."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Colours = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIDE: Final = 96
"""Longer side of the copy on which contrast is measured."""
SURROUNDINGS: Final = 0.25
"""Side of the neighbourhood, as a fraction of the longer side, against whose mean contrast is measured."""
ENOUGH_CONTRAST: Final = 16.0
"""Contrast of ink and surroundings, in grey levels, from which lightness alone is used."""
GAIN: Final = 2.0
"""Another colour axis is used only if its contrast is this many times that of lightness."""
INK_QUANTILE: Final = 0.99
"""Quantile of the differences from the surroundings that is the contrast: ink covers 1 % of a picture or more."""


def lacks_contrast(grey: Grey) -> bool:
    """Return whether nothing in a grey picture differs clearly from its surroundings."""
    return _contrast(_local_differences(grey)) < ENOUGH_CONTRAST


def along_main_axis(colours: Colours, grey: Grey) -> Grey:
    """Return the channel along which the colours vary most, or `grey` if its contrast is not clearly lower.

    The axis is the first principal component of the differences from the surroundings, so that slow changes of light
    do not determine it.

    Args:
        colours: uint8 `[height, width, 3]`.
        grey: the lightness of the same picture, uint8 `[height, width]`.

    Returns:
        uint8 `[height, width]`. Grey levels are weighted means of the channels, so noise is not amplified.
    """
    differences = _local_differences(colours).reshape(-1, 3)
    _, axes = np.linalg.eigh((differences.T @ differences).astype(np.float64))
    axis = (axes[:, -1] / np.abs(axes[:, -1]).sum()).astype(np.float32)
    if _contrast(differences @ axis) < GAIN * _contrast(_local_differences(grey)):
        return grey
    lowest = 255 * axis.clip(max=0).sum()
    projected: Floats = colours.astype(np.float32) @ axis - lowest
    return np.rint(projected).clip(0, 255).astype(np.uint8)


def _local_differences(pixels: npt.NDArray[np.uint8]) -> Floats:
    """Return the differences of a small copy of the pixels from the mean of their surroundings."""
    height, width = pixels.shape[:2]
    scale = min(1, SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), np.float32)
    side = 2 * round(SURROUNDINGS * max(size) / 2) + 1
    return small - np.asarray(cv2.blur(small, (side, side)), np.float32)


def _contrast(differences: Floats) -> float:
    return float(np.quantile(np.abs(differences), INK_QUANTILE))
