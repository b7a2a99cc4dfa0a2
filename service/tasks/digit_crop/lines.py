"""Remove straight lines: the frame of a form field, ruled and squared paper, the trace of a scanner."""

import math
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.uint8]

MIN_LENGTH: Final = 0.75
"""Minimum length of a line, as a fraction of the picture's side. Strokes of digits are shorter or not straight."""
TILT: Final = 0.05
"""Maximum slope of a line against the border of the picture, three degrees: paper may lie at an angle."""
MAX_THICKNESS: Final = 0.05
"""Maximum thickness of a line, as a fraction of the picture's side."""
CROSSING: Final = 1.5
"""Factor of the line's thickness from which a stroke crosses the line or ends in it, and is kept."""


def remove_lines(mask: Mask) -> Mask:
    """Return the mask, uint8 `[height, width]` of 0 and 1, without the lines that run along and across it."""
    _, _, width, height = cv2.boundingRect(mask)
    if width >= MIN_LENGTH * mask.shape[1]:
        mask = _without_rows(mask)
    if height >= MIN_LENGTH * mask.shape[0]:
        mask = np.ascontiguousarray(_without_rows(np.ascontiguousarray(mask.T)).T)
    return mask


def _without_rows(mask: Mask) -> Mask:
    """Remove lines that run from left to right, all at the slope that most of them have."""
    least = MIN_LENGTH * mask.shape[1]
    rise = _rise_of_lines(mask, least)
    if rise is None:
        return mask
    level = _sheared(mask, rise)
    lengths = _lengths(level)
    rows = np.flatnonzero(lengths >= least)
    removed = np.zeros_like(mask)
    for line in np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1):
        removed |= _line_at(level, int(line[lengths[line].argmax()]))
    return _erase(mask, _sheared(removed, -rise))


def _rise_of_lines(mask: Mask, least: float) -> int | None:
    """Return by how many pixels the lines rise over the width of the picture; None if there is no line."""
    most = math.ceil(TILT * mask.shape[1])

    def evidence(rise: int) -> float:
        lengths = _lengths(_sheared(mask, rise)).astype(np.float64)
        return float((lengths[lengths >= least] ** 2).sum())

    rise = max(range(-most, most + 1, 2), key=evidence)
    rise = max((rise - 1, rise, rise + 1), key=evidence)
    return rise if evidence(rise) else None


def _lengths(mask: Mask) -> npt.NDArray[np.int32]:
    """Return how many pixels of each row are set."""
    return np.asarray(cv2.reduce(mask, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S), np.int32).ravel()


def _sheared(mask: Mask, rise: int) -> Mask:
    """Shift each column up so that a line that falls by `rise` pixels from left to right becomes level."""
    height, width = mask.shape
    shear = np.array([[1, 0, 0], [rise / width, 1, -rise / 2]], np.float32)
    flags = cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(mask, shear, (width, height), flags=flags), np.uint8)


def _line_at(level: Mask, row: int) -> Mask:
    """Return the pixels of the level line through `row`, without the strokes that cross it."""
    most = max(2, round(MAX_THICKNESS * max(level.shape)))
    above, below = _run(level[max(0, row - 3 * most) : row + 1][::-1]), _run(level[row : row + 3 * most + 1])
    thickness = above + below - 1
    usual = float(np.median(thickness[above > 0]))
    if usual > most:
        return np.zeros_like(level)
    rows = np.arange(len(level))[:, None] - row
    half = usual / 2 + 1
    is_line = (above > 0) & (thickness <= CROSSING * usual + 1.5)
    ends_in_it = (above <= half) | (below <= half)
    removed = is_line & (rows > -above) & (rows < below) | ~is_line & ends_in_it & (np.abs(rows) < half)
    return removed.astype(np.uint8) & level


def _run(mask: Mask) -> npt.NDArray[np.int64]:
    """Return how many pixels in a row are set in each column, counted from the first row."""
    return np.asarray(np.cumprod(mask, axis=0, dtype=np.int64).sum(0))


def _erase(mask: Mask, line: Mask) -> Mask:
    """Clear the line, and the remainders of rounding along its edges."""
    rest = np.where(line > 0, 0, mask).astype(np.uint8)
    edges = cv2.dilate(line, np.ones((3, 1), np.uint8))
    thick = cv2.morphologyEx(rest, cv2.MORPH_OPEN, np.ones((3, 1), np.uint8))
    return np.where((edges > 0) & (thick == 0), 0, rest).astype(np.uint8)
