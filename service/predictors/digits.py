"""Digits: which handwritten digit is in the picture? The request and the answer, and how a picture becomes 28x28.

Both versions, the perceptron and the convolutional network, are asked in the same way.
"""

from collections.abc import Mapping
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from service.arrays import Array, Tensors
from service.errors import Fault, Invalid, ServiceError, TooLarge
from service.predictors import MAX_ITEMS, Answer, Payload, Predictor
from service.predictors.base64_data import Base64Data
from service.predictors.framing import SIZE, frame
from service.predictors.pictures import check_together, is_small_png, read_grey

MOST_QUICK = 16
"""Small pictures that take no longer than a millisecond together."""

_DOWN, _RIGHT = np.indices((SIZE, SIZE)).reshape(2, -1) - SIZE / 2
_MOMENTS = np.stack((np.ones(SIZE**2), _DOWN, _RIGHT), axis=1).astype(np.float32)
"""What a picture's pixels are multiplied by to get its ink, and its ink times how far its centre is from the middle."""


class DigitsRequest(Payload):
    """Pictures, each of one digit: PNG, JPEG, WebP, GIF, BMP or TIFF, in base64."""

    images: Annotated[list[Base64Data], Field(min_length=1, max_length=MAX_ITEMS)]


class Digit(BaseModel):
    """The digit in one picture."""

    digit: int
    confidence: float
    """Probability of the digit."""
    probabilities: list[float]
    """Of the digits 0 to 9."""


class DigitsAnswer(Answer):
    """One `Digit` per picture, in order."""

    predictions: list[Digit]


class DigitsPredictor(Predictor[DigitsRequest, None, DigitsAnswer]):
    """Pictures to digits."""

    name = "digits"
    Request = DigitsRequest
    Answer = DigitsAnswer
    files_field = "images"
    inputs = ("pictures",)
    outputs = ("probabilities",)

    def is_slow_to_decode(self, request: DigitsRequest) -> bool:
        return len(request.images) > MOST_QUICK or not all(map(is_small_png, request.images))

    def decode(self, request: DigitsRequest) -> tuple[Tensors, None]:
        """`pictures`, uint8 `[n, 28, 28]`: the digit of each as MNIST has it, 0 background to 255 ink."""
        if self.is_slow_to_decode(request):
            check_together(request.images)
        pictures = np.empty((len(request.images), SIZE, SIZE), np.uint8)
        for row, data in enumerate(request.images):
            pictures[row] = _read(data, row)
        return {"pictures": pictures}, None

    def describe(self, outputs: Tensors, facts: None) -> DigitsAnswer:  # noqa: ARG002
        """From `probabilities`, float32 `[n, 10]`."""
        return DigitsAnswer(
            model=self.name,
            version=self.version,
            predictions=[
                Digit(digit=row.index(max(row)), confidence=max(row), probabilities=row)
                for row in outputs["probabilities"].tolist()
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """`ink`, the mean of the pixels; `off_centre`, how many pixels the ink's centre of mass is from the middle."""
        ink, down, right = (inputs["pictures"].reshape(-1, SIZE * SIZE).astype(np.float32) @ _MOMENTS).T
        return {"ink": ink / SIZE**2, "off_centre": np.hypot(down, right) / np.maximum(ink, 1)}


def _read(data: bytes, row: int) -> npt.NDArray[np.uint8]:
    """One picture; an error names its row."""
    try:
        return frame(read_grey(data))
    except (Invalid, TooLarge) as error:
        raise _naming(error, row) from error


def _naming(error: ServiceError, row: int) -> ServiceError:
    return type(error)(f"Picture {row}: {error.detail}", faults=(Fault(("images", row), error.detail),))
