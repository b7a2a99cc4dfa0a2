"""Digits: which handwritten digit is in the picture? The request, the answer, and what lies between.

Both versions, the perceptron and the convolutional network, are asked in the same way. A picture that does not show
which part of it is the digit gives several rows, all of one run; the network's confidence chooses among them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, Field

from service.errors import Fault, Invalid, ServiceError, TooLarge
from service.tasks.base import MAX_ITEMS, Answer, Payload, Task
from service.tasks.base64_data import Base64Data
from service.tasks.digit_crop.crops import Crop, crops
from service.tasks.digit_crop.mnist import SIZE
from service.tasks.images import check_together, read_grey, small_png_size
from service.tensors import Array, Rows, Tensors

MOST_QUICK = 16
"""Small PNGs of MNIST's size that are read on the event loop: of MNIST's form, they take a millisecond together. The
digit of any other picture has to be searched for, which takes milliseconds each."""
EVENNESS: Final = 2.0
"""What even surroundings weigh beside the network's confidence, log by log odds. On pairs of crops of 5,000 validation
pictures, of which one was read right, any weight from 1.3 to 2.5 chose the same share of right ones."""
CERTAIN: Final = 1e-4
"""The network's confidence counts up to one minus this."""

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


@dataclass(frozen=True)
class Candidates:
    """What the rows of `decode` are, where some pictures have several."""

    pictures: Rows
    """`[rows]`, the number of the picture that each row is a crop of, ascending from 0 without gaps."""
    unevenness: Array
    """`[rows]`, that of the crops' surroundings."""


class DigitsTask(Task[DigitsRequest, Candidates | None, DigitsAnswer]):
    """Pictures to digits."""

    name = "digits"
    Request = DigitsRequest
    Answer = DigitsAnswer
    files_field = "images"
    inputs = ("pictures",)
    outputs = ("probabilities",)

    def is_slow_to_decode(self, request: DigitsRequest) -> bool:
        return len(request.images) > MOST_QUICK or any(small_png_size(data) != (SIZE, SIZE) for data in request.images)

    def decode(self, request: DigitsRequest) -> tuple[Tensors, Candidates | None]:
        """Return `pictures`, uint8 `[n, 28, 28]`: digits as MNIST has them, 0 background to 255 ink.

        The candidates are None if each picture gives one row.
        """
        if self.is_slow_to_decode(request):
            check_together(request.images)
        found = [_read(data, number) for number, data in enumerate(request.images)]
        rows = [crop for each in found for crop in each]
        pictures = np.empty((len(rows), SIZE, SIZE), np.uint8)
        for row, crop in enumerate(rows):
            pictures[row] = crop.digit
        if len(rows) == len(found):
            return {"pictures": pictures}, None
        numbers = np.repeat(np.arange(len(found)), [len(each) for each in found])
        return {"pictures": pictures}, Candidates(numbers, np.array([crop.unevenness for crop in rows]))

    def select(self, outputs: Tensors, facts: Candidates | None) -> Rows | None:
        """Return the row of each picture whose crop is most likely a digit.

        That is the one of which the network is most confident, and which lies in the most even surroundings.
        """
        if facts is None:
            return None
        confidence = outputs["probabilities"].max(1).astype(np.float64).clip(CERTAIN, 1 - CERTAIN)
        scores = np.log(confidence / (1 - confidence)) - EVENNESS * np.log(facts.unevenness)
        ascending = np.lexsort((scores, facts.pictures))
        return ascending[np.flatnonzero(np.diff(facts.pictures, append=-1))]

    def describe(self, outputs: Tensors, facts: Candidates | None) -> DigitsAnswer:  # noqa: ARG002
        """Return the digits read from `probabilities`, float32 `[n, 10]`."""
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


def _read(data: bytes, number: int) -> list[Crop]:
    """Return what may be the digit of one picture; an error names the picture by its number."""
    try:
        return crops(read_grey(data))
    except (Invalid, TooLarge) as error:
        raise _naming(error, number) from error


def _naming(error: ServiceError, number: int) -> ServiceError:
    return type(error)(f"Picture {number}: {error.detail}", faults=(Fault(("images", number), error.detail),))
