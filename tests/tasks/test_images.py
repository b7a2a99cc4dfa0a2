"""Pictures from users and from attackers: every format and mode gives the same digit or a clear error."""

import io
import struct
import time
import zlib
from contextlib import suppress

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from service.errors import Invalid, TooLarge
from service.tasks.digit_crop.crops import crops
from service.tasks.images import MAX_PIXELS, WORKING_SIDE, read_grey
from tests.tasks.drawings import Grey, digit_of, drawing, encode


def with_alpha(ink: Grey, tone: int) -> Image.Image:
    """Return ink of one tone on a transparent background."""
    return Image.merge("LA", (Image.new("L", ink.shape[::-1], tone), Image.fromarray(ink)))


def palette(ink: Grey) -> Image.Image:
    return Image.fromarray(ink).convert("RGB").quantize(16)


WAYS = {
    "PNG grey": lambda ink: encode(Image.fromarray(ink)),
    "PNG dark on light": lambda ink: encode(Image.fromarray(255 - ink)),
    "PNG RGB": lambda ink: encode(Image.fromarray(ink).convert("RGB")),
    "PNG black on transparent": lambda ink: encode(with_alpha(ink, 0)),
    "PNG white on transparent": lambda ink: encode(with_alpha(ink, 255)),
    "PNG RGBA": lambda ink: encode(with_alpha(ink, 40).convert("RGBA")),
    "PNG opaque RGBA": lambda ink: encode(Image.fromarray(ink).convert("RGBA")),
    "PNG palette": lambda ink: encode(palette(ink)),
    "PNG palette, transparent": lambda ink: encode(palette(ink), transparency=palette(ink).getpixel((0, 0))),
    "PNG 16 bit": lambda ink: encode(Image.fromarray(ink.astype(np.uint16) * 257)),
    "PNG 1 bit": lambda ink: encode(Image.fromarray(ink).convert("1", dither=Image.Dither.NONE)),
    "JPEG": lambda ink: encode(Image.fromarray(ink), "JPEG"),
    "JPEG poor": lambda ink: encode(Image.fromarray(ink).convert("RGB"), "JPEG", quality=20),
    "JPEG progressive": lambda ink: encode(Image.fromarray(255 - ink), "JPEG", progressive=True),
    "JPEG CMYK": lambda ink: encode(Image.fromarray(255 - ink).convert("CMYK"), "JPEG"),
    "WebP": lambda ink: encode(Image.fromarray(ink), "WEBP"),
    "WebP transparent": lambda ink: encode(with_alpha(ink, 0).convert("RGBA"), "WEBP", lossless=True),
    "GIF": lambda ink: encode(Image.fromarray(ink), "GIF"),
    "GIF animated": lambda ink: encode(
        Image.fromarray(ink), "GIF", save_all=True, append_images=[Image.new("L", ink.shape[::-1], 255)]
    ),
    "BMP": lambda ink: encode(Image.fromarray(ink), "BMP"),
    "TIFF": lambda ink: encode(Image.fromarray(ink), "TIFF", compression="tiff_lzw"),
    "TIFF float": lambda ink: encode(Image.fromarray(ink.astype(np.float32) / 255), "TIFF"),
    "TIFF float, NaN": lambda ink: encode(Image.fromarray(np.where(ink == 0, np.nan, ink).astype("f4")), "TIFF"),
    "TIFF 32 bit": lambda ink: encode(Image.fromarray(ink.astype(np.int32) * 1000 - 5), "TIFF"),
    "TIFF CMYK": lambda ink: encode(Image.fromarray(ink).convert("CMYK"), "TIFF"),
    "TIFF LAB": lambda ink: encode(Image.merge("LAB", [Image.fromarray(ink)] * 3), "TIFF"),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_format_and_mode_gives_the_same_digit(way: str) -> None:
    assert [digit_of(WAYS[way](drawing(digit))) for digit in range(10)] == list(range(10))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    stored = {
        1: lambda p: p,
        2: np.fliplr,
        3: lambda p: np.rot90(p, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda p: np.rot90(p, 1),
        7: lambda p: np.rot90(p, 2).T,
        8: lambda p: np.rot90(p, 3),
    }[orientation](drawing(7)[:, 10:])
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = read_grey(encode(Image.fromarray(np.ascontiguousarray(stored)), kind, exif=exif))
    assert upright.shape == drawing(7)[:, 10:].shape
    assert np.abs(upright.astype(int) - drawing(7)[:, 10:]).max() < 100
    assert np.abs(upright.astype(int) - drawing(7)[:, 10:]).mean() < 3


@given(
    grey=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40))),
    level=st.integers(0, 9),
    gamma=st.integers(0, 100_000),
    mode=st.sampled_from(["L", "RGB", "LA", "P"]),
)
@settings(deadline=None)
def test_any_small_png_keeps_every_tone(grey: Grey, level: int, gamma: int, mode: str) -> None:
    extra = PngInfo()
    extra.add(b"gAMA", gamma.to_bytes(4, "big"))
    buffer = io.BytesIO()
    Image.fromarray(grey).convert(mode).save(buffer, "PNG", compress_level=level, pnginfo=extra)
    assert np.array_equal(read_grey(buffer.getvalue()), grey)


def test_a_small_png_is_rotated_and_its_first_frame_is_read() -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    turned, animated = io.BytesIO(), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(grey).save(turned, "PNG", exif=exif)
    first, second = Image.fromarray(grey), Image.fromarray(grey + 100)
    first.save(animated, "PNG", save_all=True, append_images=[second])
    assert np.array_equal(read_grey(turned.getvalue()), grey[::-1, ::-1])
    assert np.array_equal(read_grey(animated.getvalue()), grey)


def test_a_card_with_transparent_margins_is_read() -> None:
    card = Image.new("LA", (300, 200), (0, 0))
    card.paste(Image.merge("LA", (Image.fromarray(255 - drawing(4)), Image.new("L", (160, 160), 255))), (50, 20))
    assert digit_of(encode(card)) == 4


def test_a_large_photograph_is_read_at_working_size() -> None:
    ink = cv2.resize(drawing(3), (4000, 3000), interpolation=cv2.INTER_LINEAR)
    data = encode(Image.fromarray(255 - ink // 2).convert("RGB"), "JPEG", quality=60)
    grey = read_grey(data)
    assert WORKING_SIDE // 2 <= max(grey.shape) <= WORKING_SIDE
    assert digit_of(data) == 3


PNG_START = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_header(width: int, height: int) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return PNG_START + header + chunk(b"IDAT", zlib.compress(bytes(1000)))


def bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def gif_header(width: int, height: int) -> bytes:
    frame_header = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x08\x01\x00\x00;"
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + frame_header


def tiff_header(width: int, height: int) -> bytes:
    tags = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 99)]
    body = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + body + bytes(4)


def webp_header(width: int, height: int) -> bytes:
    canvas = bytes(4) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + canvas


@pytest.mark.parametrize("header", [png_header, bmp_header, gif_header, tiff_header, webp_header])
@pytest.mark.parametrize("size", [(5001, 5000), (60_000, 60_000)])
def test_too_many_pixels_are_rejected_by_the_header(header, size: tuple[int, int]) -> None:
    with pytest.raises(TooLarge, match="25 megapixels"):
        read_grey(header(*size))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF"])
def test_the_pixel_limit_is_exact(kind: str) -> None:
    assert MAX_PIXELS == 5000 * 5000
    assert max(read_grey(encode(Image.new("L", (5000, 5000)), kind)).shape) <= WORKING_SIDE
    with pytest.raises(TooLarge):
        read_grey(encode(Image.new("L", (5000, 5001)), kind))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_truncated_pictures_are_invalid(kind: str) -> None:
    data = encode(Image.fromarray(drawing(5)), kind)
    for share in (0.02, 0.3, 0.8):
        with pytest.raises(Invalid, match="cannot be decoded"):
            read_grey(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["PPM", "ICO", "PDF", "EPS", "TGA", "JPEG2000", "AVIF", "PCX", "SGI"])
def test_other_formats_are_invalid(kind: str) -> None:
    try:
        data = encode(Image.fromarray(drawing(5)).convert("RGB"), kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    with pytest.raises(Invalid):
        read_grey(data)


def test_bombs_of_text_and_of_scans_are_invalid() -> None:
    text = chunk(b"zTXt", b"note\x00\x00" + zlib.compress(bytes(50_000_000)))
    whole = encode(Image.fromarray(drawing(5)))
    with pytest.raises(Invalid):
        read_grey(whole[:33] + text * 20 + whole[33:])
    jpeg = encode(Image.fromarray(drawing(5)), "JPEG", progressive=True)
    last_scan = jpeg[jpeg.rindex(b"\xff\xda") : -2]
    with pytest.raises(Invalid, match="scans"):
        read_grey(jpeg[:-2] + last_scan * 200 + jpeg[-2:])


def test_a_bomb_of_tags_is_rejected_fast() -> None:
    tags = b"".join(struct.pack("<HHII", tag, 12, 0x0FFFFFFF, 8) for tag in range(1, 2000))
    began = time.process_time()
    with pytest.raises(Invalid):
        read_grey(b"II*\x00" + struct.pack("<IH", 8, 1999) + tags)
    assert time.process_time() - began < 2


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_garbage_is_invalid(data: bytes) -> None:
    with pytest.raises(Invalid):
        read_grey(data)


SEEDS = [way(drawing(5, 40)) for way in WAYS.values()]


@settings(max_examples=400, deadline=None)
@given(
    data=st.sampled_from(SEEDS),
    changes=st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_damaged_pictures_are_read_or_rejected(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, value in changes:
        damaged[place % len(damaged)] = value
    with suppress(Invalid, TooLarge):
        crops(read_grey(bytes(damaged)))
