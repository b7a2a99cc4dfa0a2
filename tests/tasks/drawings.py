"""Draw digits in pictures, and read them with the model."""

import io
from collections.abc import Iterable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.paths import MODELS
from training.data.images import MNIST, load_images
from training.digits import pictures_read

Grey = npt.NDArray[np.uint8]

MNIST_TEST = load_images(MNIST)[1]
CHOSEN = [int(np.flatnonzero(MNIST_TEST.labels == digit)[1]) for digit in range(10)]
"""By digit, a row of `MNIST_TEST`."""


MODEL = MODELS / "digits" / "2" / "model.int8.onnx"
"""The graph that is served on CPUs."""


def digits_of(pictures: Iterable[bytes]) -> npt.NDArray[np.int64]:
    """Return the digit that is read in each encoded picture, -1 if none is found."""
    return pictures_read.read(MODEL, pictures_read.preprocess(pictures, "test"))


def digit_of(picture: bytes) -> int:
    """Return the digit that is read in an encoded picture; raise the errors of the service."""
    preprocessed = pictures_read.TASK.preprocess(pictures_read.DigitsRequest.model_construct(images=[picture]))
    return int(pictures_read.read(MODEL, [pictures_read.Preprocessed(*preprocessed)])[0])


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(digit: int, side: int = 160) -> Grey:
    """Return a digit in white on black with margins, uint8 `[side, side]`."""
    canvas = np.zeros((side, side), np.uint8)
    size = side * 3 // 5
    canvas[side // 5 : side // 5 + size, side // 4 : side // 4 + size] = cv2.resize(
        MNIST_TEST.pictures[CHOSEN[digit]], (size, size), interpolation=cv2.INTER_CUBIC
    )
    return canvas
