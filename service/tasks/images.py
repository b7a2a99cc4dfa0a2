"""From the bytes of a picture that a stranger sent to plain grey pixels, at a bounded cost of time and memory.

Six formats and nothing else, the size known from the header before a pixel is decoded, large JPEGs decoded at a
fraction of their size, transparency and EXIF orientation taken into account. What comes out is small enough to work on.
"""

import io
import zlib
from collections.abc import Sequence
from typing import Final, TypeVar, cast

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from service.errors import Invalid, TooLarge
from service.tasks.colours import Colours, Grey, along_main_axis, lacks_contrast

Pixel = TypeVar("Pixel", np.uint8, np.float32)

FORMATS: Final = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS: Final = 25_000_000
MAX_PIXELS_TOGETHER: Final = 4 * MAX_PIXELS
"""Of all pictures of a request: a blank one of 25 megapixels has few bytes and takes as long as any."""
WORKING_SIDE: Final = 1024
"""Longest side of what `read_grey` gives; larger pictures are averaged down to it."""
SMALL_BYTES: Final = 4096
SMALL_SIDE: Final = 64
MAX_SCANS: Final = 100
"""A progressive JPEG has about ten scans, each a pass over the whole picture; one with thousands is an attack."""

OPAQUE: Final = 0.98
"""Of the strongest opacity: edges, where colours mix, tell nothing of the ink's tone."""
SOLID: Final = 0.9
"""Fraction of its convex hull that a solid thing fills; handwriting fills less."""
SEVERAL_TONES: Final = 24
"""Levels of a channel between the darkest and the brightest of several tones: more than a pen's own."""
LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in lightness (ITU-R BT.601)."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_GREY = b"\x08\x00"
"""Bit depth and colour type, behind the size in a PNG's header."""
_NOT_PLAIN = (b"tRNS", b"eXIf", b"acTL")
"""Chunks of a PNG with transparency, with an orientation perhaps, with an animation."""
_GREY_MODES = ("1", "L", "LA", "I", "F")
_DRAFT_SIZE = (WORKING_SIDE // 2, WORKING_SIDE // 2)
_START_OF_SCAN = b"\xff\xda"
_ORIENTATION = 0x0112


cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


def read_grey(data: bytes) -> Grey:
    """The picture upright and in grey, uint8 `[height, width]`, no side above `WORKING_SIDE`.

    Args:
        data: an encoded picture in one of `FORMATS`; of an animation or a file of many pages, the first is taken.

    Raises:
        TooLarge: its header announces more than `MAX_PIXELS`; nothing was decoded.
        Invalid: it is no picture of these formats, is damaged, or cannot be decoded.
    """
    if (grey := _read_plain_png(data)) is not None:
        return grey
    _check_webp_size(data)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            _check_scans(image, data)
            has_colours = image.mode.partition(";")[0] not in _GREY_MODES
            image.draft("L", _DRAFT_SIZE)
            image.load()
            orientation = image.getexif().get(_ORIENTATION, 1)
            grey = _to_grey(image)
            if has_colours and lacks_contrast(grey):
                grey = along_main_axis(_to_colours(image, data), grey)
    except (TooLarge, Invalid):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except Exception as error:  # decoders of hostile bytes raise what they like: struct.error, KeyError, SyntaxError...
        raise Invalid("The picture cannot be decoded: it is damaged, or not one of " + ", ".join(FORMATS)) from error
    return np.ascontiguousarray(_upright(grey, orientation))


def small_png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG that decodes in a fraction of a millisecond, by its header; None for others."""
    if len(data) > SMALL_BYTES or data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR":
        return None
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return (width, height) if width <= SMALL_SIDE and height <= SMALL_SIDE else None


def _read_plain_png(data: bytes) -> Grey | None:
    """A small PNG of nothing but 8-bit grey, as MNIST's digits are sent, by OpenCV at a sixth of Pillow's cost.

    None if it is another picture, or damaged.
    """
    if small_png_size(data) is None or data[24:26] != _EIGHT_BIT_GREY or any(each in data for each in _NOT_PLAIN):
        return None
    if not _is_undamaged_png(data):  # of which libpng would complain on the standard error, whatever the log level
        return None
    return cast("Grey | None", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _is_undamaged_png(data: bytes) -> bool:
    """Whether its chunks follow each other to the end, each with the right check sum."""
    at = len(_PNG_SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        at = end
    return at == len(data)


def check_together(pictures: Sequence[bytes]) -> None:
    """Adds up what the headers of a request's pictures announce.

    Raises:
        TooLarge: together they have more than `MAX_PIXELS_TOGETHER`; nothing was decoded.
    """
    if sum(map(_announced, pictures)) > MAX_PIXELS_TOGETHER:
        raise TooLarge(f"The pictures have more than {MAX_PIXELS_TOGETHER // 1_000_000} megapixels together")


def _announced(data: bytes) -> int:
    """Pixels by the header; none if it cannot be read, which decoding will say better."""
    try:
        _check_webp_size(data)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            return image.width * image.height
    except Exception:
        return 0


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise _too_large()


def _too_large() -> TooLarge:
    return TooLarge(f"The picture has more than {MAX_PIXELS // 1_000_000} megapixels")


def _check_webp_size(data: bytes) -> None:
    """Pillow makes room for a WebP's whole canvas as soon as it opens it, so its header is read here."""
    if data[:4] != b"RIFF" or data[8:16] != b"WEBPVP8X":
        return
    width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    _check_size(width, height)


def _check_scans(image: Image.Image, data: bytes) -> None:
    if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > MAX_SCANS:
        raise Invalid(f"The JPEG has more than {MAX_SCANS} scans")


def _to_grey(image: Image.Image) -> Grey:
    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(np.asarray(image))
    if image.mode == "LAB":
        return _shrink(np.asarray(image.getchannel("L")))
    if image.has_transparency_data:
        return np.asarray(cv2.cvtColor(_compose(image), cv2.COLOR_RGB2GRAY), np.uint8)
    return _shrink(np.asarray(image.convert("RGB").convert("L") if image.mode == "CMYK" else image.convert("L")))


def _to_colours(image: Image.Image, data: bytes) -> Colours:
    """Return three channels of a picture, uint8 `[height, width, 3]`, in the size that `_to_grey` gives.

    Args:
        image: the picture as loaded: a JPEG may have been decoded in grey.
        data: its bytes.
    """
    if image.mode == "LAB":
        return _shrink(np.asarray(image))
    if image.has_transparency_data:
        return _compose(image)
    if image.mode == "L":
        with Image.open(io.BytesIO(data), formats=FORMATS) as again:
            again.draft("RGB", _DRAFT_SIZE)
            return _shrink(np.asarray(again.convert("RGB")))
    return _shrink(np.asarray(image.convert("RGB")))


def _stretch(values: npt.NDArray[np.generic]) -> Grey:
    """Darkest to 0, brightest to 255: 16-bit and float pictures have no agreed range. NaN and infinities become 0."""
    numbers = np.nan_to_num(values.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)
    small = _shrink(numbers).astype(np.float64)
    low, high = small.min(), small.max()
    if not 0 < high - low < np.inf:
        return np.zeros(small.shape, np.uint8)
    return np.asarray(np.rint((small - low) * (255 / (high - low))), np.uint8)


def _compose(image: Image.Image) -> Colours:
    """Lay a transparent picture on a ground on which its visible part can be seen; uint8 `[height, width, 3]`.

    Ink goes on the opposite tone: black on white, white on black. A solid part in several tones is a picture in itself,
    a card with a digit on it. It goes on its own most common colour.
    """
    pixels = _shrink(np.asarray(image.convert("RGBA")))
    colours, alpha = pixels[:, :, :3], pixels[:, :, 3]
    if not alpha.any():
        return np.zeros_like(colours)
    opaque = alpha >= OPAQUE * alpha.max()
    visible = colours[opaque]
    low, common, high = np.percentile(visible, (1, 50, 99), axis=0)
    is_card = _is_solid(opaque) and (high - low).max() > SEVERAL_TONES
    ground = common if is_card else np.full(3, 255.0 * (np.median(visible @ LUMA) < 128))
    opacity = alpha[:, :, None].astype(np.float32) / 255
    return np.asarray(np.rint(ground + (colours - ground) * opacity), np.uint8)


def _is_solid(mask: npt.NDArray[np.bool_]) -> bool:
    """Whether pixels fill their convex hull, as a card does, upright or askew, and handwriting does not."""
    hull = cv2.convexHull(cv2.findNonZero(mask.astype(np.uint8)))
    return int(mask.sum()) > SOLID * max(1.0, cv2.contourArea(hull))


def _shrink(pixels: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
    """Averaged down to `WORKING_SIDE`; the sooner, the less memory the rest takes."""
    height, width = pixels.shape[:2]
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), pixels.dtype)


def _upright(grey: Grey, orientation: int) -> Grey:
    """Undoes the rotation and mirroring that the EXIF tag `Orientation` (1 to 8) records; other values do nothing."""
    if orientation in (5, 6, 7, 8):
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return grey
