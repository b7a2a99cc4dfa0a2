"""Choose the strokes that form the digit."""

from typing import Final, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from service.tasks.digit_crop.contrast import Floats
from service.tasks.digit_crop.lines import Mask, remove_lines

LEAST_SURE: Final = 0.3
"""Darkness from which a pixel may be ink for sure, whatever Otsu's threshold is."""
FAINT: Final = 0.5
"""Of what is sure: a stroke may fade to it, since the pen is lifted slowly."""
SPECK: Final = 0.01
"""Of the largest piece's area; what is smaller is dirt or noise."""
GAPS: Final = (0.2, 0.4)
"""Pieces closer than this fraction of the largest one's size belong together: surely, and perhaps."""
LEAST_GAIN: Final = 1.05
"""With the wider gap the ink must grow by this factor, or it is the same digit."""
AT_THE_RIM: Final = 0.3
"""Weight of strokes that touch the rim: they are more often fingers and the edges of things."""
IN_THE_CORNER: Final = 0.5
"""Weight of strokes in a corner of the picture, against 1 in its middle."""
FRAMING: Final = 0.3
"""Weight of strokes that span the picture: a frame."""
SPAN: Final = 0.9
"""Of the picture's side."""

Numbers = npt.NDArray[np.intp]


class Pieces(NamedTuple):
    """The connected pieces of a mask, the background among them as number 0."""

    shape: tuple[int, ...]
    """Of the mask: height and width."""
    pixels: Numbers
    """Pixels of all pieces, as indices into the flattened mask."""
    numbers: Numbers
    """For each of these pixels, the number of its piece."""
    firsts: Numbers
    """`[n]`, a pixel of each piece."""
    starts: Numbers
    """`[n, 2]`, the first row and column."""
    ends: Numbers
    """`[n, 2]`, those behind the last."""
    areas: Numbers
    """`[n]`, pixels; 0 for what is no stroke."""
    ink: npt.NDArray[np.float64]
    """`[n]`, the sum of the darkness; 0 for what is no stroke."""

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
        strokes, a second one if pieces farther off may belong to the digit.
    """
    levels = (darkness * 255).astype(np.uint8)
    otsu, _ = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    sure = max(otsu, 255 * LEAST_SURE)
    ink = (levels > FAINT * sure).astype(np.uint8)
    rest = remove_lines(ink)
    pieces = _pieces(rest, levels > sure, darkness)
    masks = _likely_groups(pieces) if pieces.areas.any() else []
    return np.where(ink > rest, np.float32(0), darkness), masks


def _likely_groups(pieces: Pieces) -> list[Mask]:
    """Return the most prominent group of pieces at each of `GAPS`, unless it hardly gains ink over the one before."""
    masks: list[Mask] = []
    least = 0.0
    for gap in GAPS:
        chosen = _most_prominent(pieces, gap)
        ink = float(pieces.ink[chosen].sum())
        if ink > least:
            masks.append(pieces.mask(chosen))
        least = LEAST_GAIN * ink
    return masks


def _pieces(mask: Mask, sure: npt.NDArray[np.bool_], darkness: Floats) -> Pieces:
    """Return the pieces of a mask; those that nowhere are surely ink, and specks, are no strokes."""
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
    """Return which pieces form the group with most ink, weighted by its place."""
    group = _groups(pieces, gap)
    scores = np.bincount(group, pieces.ink) * _weights(pieces, group)
    return np.asarray((pieces.areas > 0) & (group == int(scores.argmax())))


def _groups(pieces: Pieces, gap: float) -> Numbers:
    """Return the number of each piece's group: pieces that touch once gaps between them are closed.

    What touches the rim does not belong to what does not.
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
    """Return for each group how likely it is the digit by its place: 1 in the middle, less at the rim."""
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
