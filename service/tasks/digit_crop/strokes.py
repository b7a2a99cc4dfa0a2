"""Choose the strokes that form the digit."""

from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from service.tasks.digit_crop.contrast import Floats
from service.tasks.digit_crop.lines import Mask, remove_lines

MIN_SURE: Final = 0.3
"""Minimum of the threshold above which a pixel is certainly ink; otherwise it is Otsu's."""
FAINT: Final = 0.5
"""Fraction of that threshold to which a stroke may fade, since the pen is lifted slowly."""
SPECK: Final = 0.01
"""Minimum area of a piece as a fraction of the largest one's; smaller ones are dirt or noise."""
GAPS: Final = (0.2, 0.4)
"""Gaps, as fractions of the largest piece's size, within which pieces belong together: certainly, and possibly."""
MIN_GAIN: Final = 1.05
"""Minimum factor by which ink grows with the wider gap; otherwise it is the same digit."""
AT_THE_RIM: Final = 0.3
"""Weight of strokes that touch the border: they are more often fingers and the edges of objects."""
IN_THE_CORNER: Final = 0.5
"""Weight of strokes in a corner of the picture, against 1 in its middle."""
FRAMING: Final = 0.3
"""Weight of strokes that span the picture: a frame."""
SPAN: Final = 0.9
"""Minimum size of a frame, as a fraction of the picture's side."""

Numbers = npt.NDArray[np.intp]


class Pieces(NamedTuple):
    """The connected pieces of a mask; number 0 is the background."""

    shape: tuple[int, ...]
    """Height and width of the mask."""
    pixels: Numbers
    """Pixels of all pieces, as indices into the flattened mask."""
    numbers: Numbers
    """The number of the piece of each of these pixels."""
    firsts: Numbers
    """`[n]`, a pixel of each piece."""
    starts: Numbers
    """`[n, 2]`, the first row and column."""
    ends: Numbers
    """`[n, 2]`, the row and column after the last."""
    areas: Numbers
    """`[n]`, pixels; 0 for pieces that are not strokes."""
    ink: npt.NDArray[np.float64]
    """`[n]`, the sum of the darkness; 0 for pieces that are not strokes."""

    def mask(self, chosen: npt.NDArray[np.bool_]) -> Mask:
        """Return the chosen pieces, bool `[n]`, as a mask, uint8 `[height, width]`."""
        found = np.zeros(self.shape, np.uint8)
        found.ravel()[self.pixels] = chosen[self.numbers]
        return found


def digit_strokes(darkness: Floats) -> tuple[Floats, list[Mask]]:
    """Return the strokes of the most prominent digit.

    Args:
        darkness: `[height, width]`, 0 to 1.

    Returns:
        The darkness without straight lines, and masks of the strokes, uint8 `[height, width]`: none if there are no
        strokes, and a second one if more distant pieces may belong to the digit.
    """
    levels = (darkness * 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    sure = max(otsu, 255 * MIN_SURE)
    ink = (levels > FAINT * sure).astype(np.uint8)
    rest = remove_lines(ink)
    pieces = _pieces(rest, levels > sure, darkness)
    masks = _likely_groups(pieces) if pieces.areas.any() else []
    return np.where(ink > rest, np.float32(0), darkness), masks


def _likely_groups(pieces: Pieces) -> list[Mask]:
    """Return the most prominent group of pieces for each of `GAPS`, if it has clearly more ink than the previous."""
    masks: list[Mask] = []
    least = 0.0
    for gap in GAPS:
        chosen = _most_prominent(pieces, gap)
        ink = float(pieces.ink[chosen].sum())
        if ink > least:
            masks.append(pieces.mask(chosen))
        least = MIN_GAIN * ink
    return masks


def _pieces(mask: Mask, sure: npt.NDArray[np.bool_], darkness: Floats) -> Pieces:
    """Return the pieces of a mask. Specks, and pieces without a pixel that is certainly ink, are not strokes."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    boxes: Numbers = np.asarray(stats, np.intp)
    starts: Numbers = boxes[:, [cv2.CC_STAT_TOP, cv2.CC_STAT_LEFT]]
    ends: Numbers = starts + boxes[:, [cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]]
    pixels: Numbers = np.flatnonzero(mask)
    numbers: Numbers = labels.ravel()[pixels].astype(np.intp)
    firsts = np.zeros(count, np.intp)
    firsts[numbers] = pixels
    areas: Numbers = boxes[:, cv2.CC_STAT_AREA] * (np.bincount(numbers[sure.ravel()[pixels]], minlength=count) > 0)
    areas[0] = 0
    areas *= areas >= SPECK * areas.max()
    ink = np.asarray(np.bincount(numbers, darkness.ravel()[pixels], count) * (areas > 0), np.float64)
    return Pieces(mask.shape, pixels, numbers, firsts, starts, ends, areas, ink)


def _most_prominent(pieces: Pieces, gap: float) -> npt.NDArray[np.bool_]:
    """Return which pieces form the group with the most ink, weighted by its position."""
    group = _groups(pieces, gap)
    scores = np.bincount(group, pieces.ink) * _weights(pieces, group)
    return np.asarray((pieces.areas > 0) & (group == int(scores.argmax())))


def _groups(pieces: Pieces, gap: float) -> Numbers:
    """Return the number of each piece's group: pieces that touch once gaps between them are closed.

    Pieces that touch the border and pieces that do not are never in one group.
    """
    largest = int(pieces.areas.argmax())
    size = int((pieces.ends - pieces.starts)[largest].max())
    reach = 2 * max(1, round(gap * size / 2)) + 1
    at_rim = _touch_rim(pieces.starts, pieces.ends, pieces.shape)
    group = np.zeros(len(pieces.areas), np.intp)
    for kind in (at_rim, ~at_rim):
        kept = kind & (pieces.areas > 0)
        if kept.any():
            _, joined = cv2.connectedComponents(cv2.dilate(pieces.mask(kept), np.ones((reach, reach), np.uint8)))
            group = np.where(kept, group.max() + joined.ravel()[pieces.firsts], group)
    return group


def _weights(pieces: Pieces, group: Numbers) -> npt.NDArray[np.float64]:
    """Return the weight of each group by its position: 1 in the middle, less at the border."""
    shape = np.array(pieces.shape)
    starts = np.full((int(group.max()) + 1, 2), shape.max())
    ends = np.zeros_like(starts)
    kept = pieces.areas > 0
    np.minimum.at(starts, group[kept], pieces.starts[kept])
    np.maximum.at(ends, group[kept], pieces.ends[kept])
    spans = (ends - starts > SPAN * shape).any(1)
    distance = np.abs((starts + ends) / shape - 1).max(1).clip(0, 1)
    at_rim = _touch_rim(starts, ends, pieces.shape)
    weights = 1 - (1 - IN_THE_CORNER) * distance
    return np.asarray(weights * np.where(at_rim, AT_THE_RIM, 1) * np.where(spans, FRAMING, 1), np.float64)


def _touch_rim(starts: Numbers, ends: Numbers, shape: tuple[int, ...]) -> npt.NDArray[np.bool_]:
    return np.asarray(((starts <= 0) | (ends >= np.array(shape))).any(1))
