"""Decode untrusted pictures to grey pixels, at a bounded cost of time and memory.

Only six formats are accepted. The header gives the size before any pixel is decoded. Large JPEGs are decoded at a
fraction of their size. Transparency and the EXIF orientation are taken into account.
"""

import io
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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
MAX_TOTAL_PIXELS: Final = 4 * MAX_PIXELS
"""Limit for all pictures of a request: a blank picture of 25 megapixels has few bytes and takes as long as others."""
WORKING_SIDE: Final = 1024
"""Longer side of the result; larger pictures are scaled down by averaging."""
SMALL_BYTES: Final = 4096
SMALL_SIDE: Final = 64
MAX_SCANS: Final = 100
"""Limit for a JPEG. A progressive one has about ten scans, each a pass over the whole picture; thousands are an
attack."""

OPAQUE: Final = 0.98
"""Fraction of the highest opacity from which a pixel shows the ink's tone. Colours mix at edges."""
SOLID: Final = 0.9
"""Fraction of its convex hull that a solid shape fills; handwriting fills less."""
SEVERAL_TONES: Final = 24
"""Difference, in levels of a channel, between the darkest and brightest of several tones; a pen's own is smaller."""
LUMA: Final = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in lightness (ITU-R BT.601)."""

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_EIGHT_BIT_GREY = b"\x08\x00"
"""Bit depth and colour type, which follow the size in a PNG's header."""
_NOT_PLAIN = (b"tRNS", b"eXIf", b"acTL")
"""PNG chunks for transparency, metadata with an orientation, and animation."""
_GREY_MODES = ("1", "L", "LA", "I", "F")
_DRAFT_SIZE = (WORKING_SIDE // 2, WORKING_SIDE // 2)
_START_OF_SCAN = b"\xff\xda"
_ORIENTATION = 0x0112


def configure_opencv() -> None:
    """Run OpenCV in the calling thread, since the server handles many requests in parallel, and silence its log."""
    cv2.setNumThreads(1)
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture whose header has been read. No pixel has been decoded."""

    data: bytes
    pixels: int
    """Width times height."""
    image: Image.Image | None
    """The picture as Pillow opened it; None if its size was read without Pillow."""

    def read_grey(self) -> Grey:
        """Decode the picture: upright and grey, uint8 `[height, width]`, no side above `WORKING_SIDE`. Call it once.

        Of an animation or a file of several pages, the first picture is decoded.

        Raises:
            Invalid: the picture is damaged.
        """
        if (grey := _read_plain_png(self.data)) is not None:
            return grey
        with _invalid_if_damaged(), self.image or _open_image(self.data) as image:
            return _decode(image, self.data)


def open_picture(data: bytes) -> Picture:
    """Read the header of an encoded picture in one of `FORMATS`.

    Raises:
        TooLarge: it has more than `MAX_PIXELS`.
        Invalid: it is not a picture in one of `FORMATS`, or its header is damaged.
    """
    image = None
    with _invalid_if_damaged():
        # Pillow allocates the whole canvas of a WebP when it opens it: the pictures of a request would be in memory
        # together. For small PNGs OpenCV takes a sixth of the time.
        size = small_png_size(data) or _webp_size(data)
        if size is None:
            image = _open_image(data)
            size = image.size
    return Picture(data, _checked_pixels(*size), image)


def check_total_pixels(pictures: Iterable[Picture]) -> None:
    """Check the pictures of one request together.

    Raises:
        TooLarge: they have more than `MAX_TOTAL_PIXELS`.
    """
    if sum(picture.pixels for picture in pictures) > MAX_TOTAL_PIXELS:
        raise TooLarge(f"The pictures have more than {MAX_TOTAL_PIXELS // 1_000_000} megapixels together")


def read_grey(data: bytes) -> Grey:
    """Open and decode one picture, see `open_picture` and `Picture.read_grey`."""
    return open_picture(data).read_grey()


def small_png_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a PNG that decodes in a fraction of a millisecond; None for any other picture."""
    if len(data) > SMALL_BYTES or data[:8] != _PNG_SIGNATURE or data[12:16] != b"IHDR":
        return None
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    return (width, height) if width <= SMALL_SIDE and height <= SMALL_SIDE else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    """Return width and height of a WebP (RFC 9649); None for other formats and for an incomplete header."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (int.from_bytes(data[at : at + 2], "little") & 0x3FFF for at in (26, 28))
    else:
        return None
    return width, height


def _open_image(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    _checked_pixels(*image.size)
    return image


def _checked_pixels(width: int, height: int) -> int:
    if width * height > MAX_PIXELS:
        raise _too_large()
    return width * height


@contextmanager
def _invalid_if_damaged() -> Iterator[None]:
    """Raise `Invalid` for all that decoders raise: struct.error, KeyError, SyntaxError and more, on hostile bytes."""
    try:
        yield
    except (Invalid, TooLarge):
        raise
    except Image.DecompressionBombError as error:
        raise _too_large() from error
    except Exception as error:
        raise Invalid("The picture cannot be decoded: it is damaged, or not one of " + ", ".join(FORMATS)) from error


def _too_large() -> TooLarge:
    return TooLarge(f"The picture has more than {MAX_PIXELS // 1_000_000} megapixels")


def _read_plain_png(data: bytes) -> Grey | None:
    """Decode a small PNG of nothing but 8-bit grey, the form of MNIST's digits, with OpenCV.

    Return None for other pictures and for damaged ones.
    """
    if small_png_size(data) is None or data[24:26] != _EIGHT_BIT_GREY or any(each in data for each in _NOT_PLAIN):
        return None
    if not _is_intact_png(data):  # libpng would complain about it on standard error, whatever the log level
        return None
    return cast("Grey | None", cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED))


def _is_intact_png(data: bytes) -> bool:
    """Return whether the chunks follow each other to the end, each with the right checksum."""
    at = len(_PNG_SIGNATURE)
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return False
        at = end
    return at == len(data)


def _decode(image: Image.Image, data: bytes) -> Grey:
    if image.format in ("JPEG", "MPO") and data.count(_START_OF_SCAN) > MAX_SCANS:
        raise Invalid(f"The JPEG has more than {MAX_SCANS} scans")
    has_colours = image.mode.partition(";")[0] not in _GREY_MODES
    image.draft("L", _DRAFT_SIZE)
    image.load()
    orientation = image.getexif().get(_ORIENTATION, 1)
    grey = _to_grey(image)
    if has_colours and lacks_contrast(grey):
        grey = along_main_axis(_to_colours(image, data), grey)
    return np.ascontiguousarray(_upright(grey, orientation))


def _to_grey(image: Image.Image) -> Grey:
    if image.mode.startswith("I") or image.mode == "F":
        return _stretch(np.asarray(image))
    if image.mode == "LAB":
        return _shrink(np.asarray(image.getchannel("L")))
    if image.has_transparency_data:
        return np.asarray(cv2.cvtColor(_compose(image), cv2.COLOR_RGB2GRAY), np.uint8)
    return _shrink(np.asarray(image.convert("RGB").convert("L") if image.mode == "CMYK" else image.convert("L")))


def _to_colours(image: Image.Image, data: bytes) -> Colours:
    """Return the picture as three channels, uint8 `[height, width, 3]`, of the size that `_to_grey` returns.

    Args:
        image: the loaded picture; a JPEG was decoded in grey.
        data: the encoded picture, from which a JPEG is decoded again.
    """
    if image.mode == "LAB":
        return _shrink(np.asarray(image))
    if image.has_transparency_data:
        return _compose(image)
    if image.mode == "L":
        with _open_image(data) as again:
            again.draft("RGB", _DRAFT_SIZE)
            return _shrink(np.asarray(again.convert("RGB")))
    return _shrink(np.asarray(image.convert("RGB")))


def _stretch(values: npt.NDArray[np.generic]) -> Grey:
    """Map the darkest value to 0 and the brightest to 255, since 16-bit and float pictures have no agreed range.

    NaN and infinities count as 0.
    """
    numbers = np.nan_to_num(values.astype(np.float32, copy=False), nan=0.0, posinf=0.0, neginf=0.0)
    small = _shrink(numbers).astype(np.float64)
    low, high = small.min(), small.max()
    if not 0 < high - low < np.inf:
        return np.zeros(small.shape, np.uint8)
    return np.asarray(np.rint((small - low) * (255 / (high - low))), np.uint8)


def _compose(image: Image.Image) -> Colours:
    """Put a transparent picture on a background on which its visible part stands out; uint8 `[height, width, 3]`.

    Ink gets the opposite tone: black on white, white on black. A solid shape in several tones, such as a card with a
    digit on it, gets its own most common colour.
    """
    pixels = _shrink(np.asarray(image.convert("RGBA")))
    colours, alpha = pixels[:, :, :3], pixels[:, :, 3]
    if not alpha.any():
        return np.zeros_like(colours)
    opaque = alpha >= OPAQUE * alpha.max()
    visible = colours[opaque]
    low, common, high = np.percentile(visible, (1, 50, 99), axis=0)
    is_card = _is_solid(opaque) and (high - low).max() > SEVERAL_TONES
    background = common if is_card else np.full(3, 255.0 * (np.median(visible @ LUMA) < 128))
    opacity = alpha[:, :, None].astype(np.float32) / 255
    return np.asarray(np.rint(background + (colours - background) * opacity), np.uint8)


def _is_solid(mask: npt.NDArray[np.bool_]) -> bool:
    """Return whether the pixels fill their convex hull: a card does, at any angle, and handwriting does not."""
    hull = cv2.convexHull(cv2.findNonZero(mask.astype(np.uint8)))
    return int(mask.sum()) > SOLID * max(1.0, cv2.contourArea(hull))


def _shrink(pixels: npt.NDArray[Pixel]) -> npt.NDArray[Pixel]:
    """Scale down to `WORKING_SIDE` by averaging. Early scaling saves memory in the steps that follow."""
    height, width = pixels.shape[:2]
    scale = WORKING_SIDE / max(height, width)
    if scale >= 1:
        return pixels
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA), pixels.dtype)


def _upright(grey: Grey, orientation: int) -> Grey:
    """Undo the rotation and mirroring that the EXIF tag `Orientation` (1 to 8) records; ignore other values."""
    if orientation in (5, 6, 7, 8):
        grey = grey.T
    if orientation in (2, 3, 6, 7):
        grey = grey[:, ::-1]
    if orientation in (3, 4, 7, 8):
        grey = grey[::-1]
    return grey
