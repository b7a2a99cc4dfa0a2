"""Draws MNIST digits into pictures that look photographed: what the digit endpoint will be sent, with known answers.

Paper and ink of any tone, dark on light or light on dark, a digit of any size at any place, slightly turned, strokes
thinner or thicker, uneven light with a bright spot, a lens out of focus, the noise of a sensor, a lossy encoder.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Grey = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Scene:
    """How far the conditions of a photograph vary; each is drawn uniformly from its range."""

    height: tuple[int, int] = (120, 640)
    aspect: tuple[float, float] = (0.7, 1.5)
    digit: tuple[float, float] = (0.15, 0.9)
    """Size of the digit as a share of the shorter side."""
    turn: tuple[float, float] = (-8, 8)
    """Degrees."""
    stroke: tuple[float, float] = (0.35, 0.6)
    """Where the edge of a stroke is put on its slope: low is thick."""
    paper: tuple[float, float] = (170, 245)
    contrast: tuple[float, float] = (0.35, 0.9)
    """How much darker ink is than paper, as a share of the paper's tone."""
    shade: tuple[float, float] = (0.0, 0.5)
    """Light that the darkest place lacks."""
    blur: tuple[float, float] = (0.0, 0.035)
    """Standard deviation, as a share of the digit's size."""
    noise: tuple[float, float] = (0.0, 10.0)
    """Standard deviation, in grey levels of 255."""
    quality: tuple[int, int] = (40, 96)


def photograph(digit: Grey, random: np.random.Generator, scene: Scene = Scene()) -> bytes:
    """A JPEG, PNG or WebP with the digit in it.

    Args:
        digit: uint8 `[28, 28]`, 0 background to 255 ink.
        random: every choice comes from it, so the same state gives the same bytes.
    """
    height = int(random.integers(scene.height[0], scene.height[1], endpoint=True))
    width = int(height * random.uniform(*scene.aspect))
    ink, size = place(digit, height, width, random, scene)
    paper = random.uniform(*scene.paper)
    tone: Floats = np.float32(paper) * (1 - ink * np.float32(random.uniform(*scene.contrast)))
    if random.random() < 0.5:
        tone = np.float32(255) - tone
    tone *= _light(height, width, random, random.uniform(*scene.shade))
    sigma = random.uniform(*scene.blur) * size
    if sigma > 0.2:
        tone = np.asarray(cv2.GaussianBlur(tone, (0, 0), sigma), np.float32)
    tone += random.normal(0, random.uniform(*scene.noise), tone.shape).astype(np.float32)
    return _encode(np.clip(tone, 0, 255).astype(np.uint8), random, scene)


def place(digit: Grey, height: int, width: int, random: np.random.Generator, scene: Scene) -> tuple[Floats, float]:
    """The digit's ink, 0 to 1, somewhere in a picture of the given size and wholly inside; and its size in pixels."""
    size = random.uniform(*scene.digit) * min(height, width) * 0.95
    scale = size / 20
    side = round(28 * scale) + 2
    soft = cv2.resize(digit.astype(np.float32) / 255, (side, side), interpolation=cv2.INTER_CUBIC)
    soft = cv2.GaussianBlur(soft, (0, 0), 0.45 * scale)
    edge = random.uniform(*scene.stroke)
    sharp = np.clip((soft - edge) * (4 if scale > 2 else 2) + 0.5, 0, 1)
    turn = cv2.getRotationMatrix2D((side / 2, side / 2), random.uniform(*scene.turn), 1.0)
    turned = cv2.warpAffine(sharp, turn, (side, side), flags=cv2.INTER_LINEAR)
    left, top, wide, high = cv2.boundingRect((turned > 0.05).astype(np.uint8))
    large = turned[top : top + high, left : left + wide][: height - 4, : width - 4]
    high, wide = large.shape
    y = int(random.integers(2, height - high - 2, endpoint=True))
    x = int(random.integers(2, width - wide - 2, endpoint=True))
    ink = np.zeros((height, width), np.float32)
    ink[y : y + high, x : x + wide] = large
    return ink, size


def _light(height: int, width: int, random: np.random.Generator, shade: float) -> Floats:
    """Light from one side and one spot, 1 where it is brightest and `1 - shade` where it is darkest."""
    y, x = np.meshgrid(np.linspace(-1, 1, height), np.linspace(-1, 1, width), indexing="ij", sparse=True)
    angle = random.uniform(0, 2 * np.pi)
    spot_y, spot_x = random.uniform(-1, 1, 2)
    side = np.cos(angle) * y + np.sin(angle) * x
    spot = np.exp(-((y - spot_y) ** 2 + (x - spot_x) ** 2) / random.uniform(0.8, 2.5))
    light = side + random.uniform(0, 2) * spot
    light = (light - light.min()) / (light.max() - light.min())
    return np.asarray(1 - shade * (1 - light), np.float32)


def _encode(grey: Grey, random: np.random.Generator, scene: Scene) -> bytes:
    """Tinted as paper under a lamp is, and encoded."""
    tint = random.uniform(0.85, 1, 3).astype(np.float32)
    colour = (grey[:, :, None] * tint).astype(np.uint8)
    quality = int(random.integers(*scene.quality))
    encoder, options = (
        (".jpg", [cv2.IMWRITE_JPEG_QUALITY, quality]),
        (".webp", [cv2.IMWRITE_WEBP_QUALITY, quality]),
        (".png", [cv2.IMWRITE_PNG_COMPRESSION, 1]),
    )[int(random.choice(3, p=(0.7, 0.15, 0.15)))]
    _, encoded = cv2.imencode(encoder, colour, options)
    return encoded.tobytes()


def photographs(digits: Grey, seed: int) -> Iterator[bytes]:
    """Yield a photograph of each digit, uint8 `[n, 28, 28]`; the same seed gives the same photographs."""
    random = np.random.default_rng(seed)
    for digit in digits:
        yield photograph(digit, random)
