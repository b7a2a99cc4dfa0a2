"""Digits drawn in pictures, and which digit the model reads there: for the tests of pictures and of framing."""

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from service.engine.onnx_runtime import ort
from service.predictors.framing import frame
from service.predictors.pictures import read_grey
from tests.places import MODELS
from training.data.images import MNIST, load_images

Grey = npt.NDArray[np.uint8]

MNIST_TEST = load_images(MNIST)[1]
CHOSEN = [int(np.flatnonzero(MNIST_TEST.labels == digit)[1]) for digit in range(10)]
"""One row of each digit."""


def model() -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(MODELS / "digits" / "2" / "model.onnx", options, providers=["CPUExecutionProvider"])


MODEL = model()


def classify(framed: Grey) -> npt.NDArray[np.int64]:
    (probabilities,) = MODEL.run(None, {"pictures": framed})
    predicted: npt.NDArray[np.int64] = probabilities.argmax(1)
    return predicted


def digit_of(data: bytes) -> int:
    framed = frame(read_grey(data))
    assert framed.dtype == np.uint8
    assert framed.shape == (28, 28)
    return int(classify(framed[None])[0])


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def drawing(digit: int, side: int = 160) -> Grey:
    """A digit in white on black, with margins."""
    canvas = np.zeros((side, side), np.uint8)
    size = side * 3 // 5
    canvas[side // 5 : side // 5 + size, side // 4 : side // 4 + size] = cv2.resize(
        MNIST_TEST.pictures[CHOSEN[digit]], (size, size), interpolation=cv2.INTER_CUBIC
    )
    return canvas
