"""Choose the strokes that form the digit."""

from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from service.predictors.digit_crop.contrast import Floats
from service.predictors.digit_crop.lines import Mask, remove_lines

LEAST_SURE: Final = 0.3
"""Darkness from which a pixel may be ink for sure, whatever Otsu's threshold is."""
FAINT: Final = 0.5
"""Of what is sure: a stroke may fade to it, since the pen is lifted slowly."""
SPECK: Final = 0.01
"""Of the largest piece's area; what is smaller is dirt or noise."""
GAP: Final = 0.2
"""Pieces closer than this fraction of the largest one's size belong together."""
AT_THE_RIM: Final = 0.3
"""Weight of strokes that touch the rim: they are more often fingers and the edges of things."""
AT_THE_CORNER: Final = 0.5
"""Weight of strokes in a corner of the picture, against 1 in its middle."""
FRAMING: Final = 0.3
"""Weight of strokes that span the picture: a frame."""
SPAN: Final = 0.9
"""Of the picture's side."""


def digit_strokes(darkness: Floats) -> Mask | None:
    """Return the strokes of the most prominent digit.

    Args:
        darkness: `[height, width]`, 0 to 1.

    Returns:
        uint8 `[height, width]`, 1 where there are strokes; None if there are none.
    """
    levels = (darkness * 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    sure = max(otsu, 255 * LEAST_SURE)
    mask = remove_lines((levels > FAINT * sure).astype(np.uint8))
    count, pieces, boxes, _ = cv2.connectedComponentsWithStats(mask)
    is_sure = np.bincount(pieces[levels > sure], minlength=count) > 0
    area = boxes[:, cv2.CC_STAT_AREA] * is_sure
    area[0] = 0
    largest = int(area.argmax())
    if area[largest] == 0:
        return None
    kept = area >= max(1, SPECK * area[largest])
    group = _groups(kept[pieces].astype(np.uint8), pieces, boxes, largest)
    ink = np.bincount(pieces.ravel(), darkness.ravel(), count) * kept
    scores = np.bincount(group, ink) * _weights(group, boxes, kept, mask.shape)
    chosen = kept & (group == int(scores.argmax()))
    return chosen[pieces].astype(np.uint8)


def _groups(mask: Mask, pieces: npt.NDArray[np.int32], boxes: npt.NDArray[np.int32], largest: int) -> npt.NDArray[np.intp]:
    """Return the number of the group of each piece: those that touch once their gaps are closed."""
    size = max(boxes[largest, cv2.CC_STAT_WIDTH], boxes[largest, cv2.CC_STAT_HEIGHT])
    reach = 2 * max(1, round(GAP * size / 2)) + 1
    _, joined = cv2.connectedComponents(cv2.dilate(mask, np.ones((reach, reach), np.uint8)))
    group = np.zeros(len(boxes), np.intp)
    group[pieces.ravel()] = joined.ravel()
    return group


def _weights(
    group: npt.NDArray[np.intp], boxes: npt.NDArray[np.int32], kept: npt.NDArray[np.bool_], shape: tuple[int, ...]
) -> npt.NDArray[np.float64]:
    """Return how likely each group is the digit by its place: 1 in the middle, less at the rim."""
    start = np.full((group.max() + 1, 2), max(shape), np.float64)
    end = np.zeros_like(start)
    corners = boxes[:, [cv2.CC_STAT_TOP, cv2.CC_STAT_LEFT]]
    sizes = boxes[:, [cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]]
    np.minimum.at(start, group[kept], corners[kept])
    np.maximum.at(end, group[kept], (corners + sizes)[kept])
    touches = ((start <= 0) | (end >= shape)).any(1)
    spans = ((end - start) > SPAN * np.array(shape)).any(1)
    distance = np.abs((start + end) / (2 * np.array(shape)) - 0.5).max(1).clip(0, 0.5) * 2
    weights: npt.NDArray[np.float64] = 1 - (1 - AT_THE_CORNER) * distance
    return weights * np.where(touches, AT_THE_RIM, 1) * np.where(spans, FRAMING, 1)
