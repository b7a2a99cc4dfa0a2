"""Digits: read the handwritten digit in each picture.

Both versions, the perceptron and the convolutional network, have the same inputs and outputs. A picture that does not
show which part of it is the digit gives several rows of one run; the network's confidence chooses among them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import numpy as np
from pydantic import BaseModel, Field

from service.errors import Fault, Invalid, TooLarge
from service.tasks.base import MAX_ITEMS, Request, Response, Task
from service.tasks.base64_data import Base64Data
from service.tasks.digit_crop.crops import Crop, crops
from service.tasks.digit_crop.mnist import SIZE
from service.tasks.images import Picture, check_total_pixels, configure_opencv, open_picture, small_png_size
from service.tensors import Array, Rows, Tensors

MAX_FAST_PICTURES = 16
"""Maximum number of pictures that are read on the event loop, if all are small PNGs of MNIST's size: together they take
a millisecond. In any other picture the digit has to be found first, which takes milliseconds each."""
EVENNESS: Final = 2.0
"""Weight of even surroundings beside the network's confidence, log by log odds. On pairs of crops of 5,000 validation
pictures, of which one was read right, any weight from 1.3 to 2.5 chose the same share of right ones."""
CERTAIN: Final = 1e-4
"""The network's confidence is clipped to this distance from 0 and 1."""

_DOWN, _RIGHT = np.indices((SIZE, SIZE)).reshape(2, -1) - SIZE / 2
_MOMENTS = np.stack((np.ones(SIZE**2), _DOWN, _RIGHT), axis=1).astype(np.float32)
"""The pixels of a picture times this matrix are the ink, and the ink times the offset of its centre from the middle."""


class DigitsRequest(Request):
    """Pictures of one digit each: PNG, JPEG, WebP, GIF, BMP or TIFF, in base64."""

    images: Annotated[list[Base64Data], Field(min_length=1, max_length=MAX_ITEMS)]


class Digit(BaseModel):
    """The digit in one picture."""

    digit: int
    confidence: float
    """Probability of the digit."""
    probabilities: list[float]
    """Probabilities of the digits 0 to 9."""


class DigitsResponse(Response):
    """One `Digit` per picture, in order."""

    predictions: list[Digit]


@dataclass(frozen=True)
class Candidates:
    """The rows of a request in which some pictures have several crops."""

    pictures: Rows
    """`[rows]`, the number of the picture that each row is a crop of, ascending from 0 without gaps."""
    unevenness: Array
    """`[rows]`, the unevenness of each crop's surroundings, see `Crop`."""


class DigitsTask(Task[DigitsRequest, Candidates | None, DigitsResponse]):
    """Pictures to digits."""

    name = "digits"
    Request = DigitsRequest
    Response = DigitsResponse
    files_field = "images"
    inputs = ("pictures",)
    outputs = ("probabilities",)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        configure_opencv()

    def is_slow_to_preprocess(self, request: DigitsRequest) -> bool:
        return len(request.images) > MAX_FAST_PICTURES or any(
            small_png_size(data) != (SIZE, SIZE) for data in request.images
        )

    def preprocess(self, request: DigitsRequest) -> tuple[Tensors, Candidates | None]:
        """Return `pictures`, uint8 `[n, 28, 28]`: digits in MNIST's form, 0 background to 255 ink.

        The candidates are None if each picture gives one row.
        """
        found = [_crops(picture, number) for number, picture in enumerate(_open(request.images))]
        rows = [crop for each in found for crop in each]
        pictures = np.empty((len(rows), SIZE, SIZE), np.uint8)
        for row, crop in enumerate(rows):
            pictures[row] = crop.digit
        if len(rows) == len(found):
            return {"pictures": pictures}, None
        numbers = np.repeat(np.arange(len(found)), [len(each) for each in found])
        return {"pictures": pictures}, Candidates(numbers, np.array([crop.unevenness for crop in rows]))

    def select(self, outputs: Tensors, state: Candidates | None) -> Rows | None:
        """Return for each picture the crop that is most likely a digit.

        The score of a crop rises with the network's confidence and with the evenness of the crop's surroundings.
        """
        if state is None:
            return None
        confidence = outputs["probabilities"].max(1).astype(np.float64).clip(CERTAIN, 1 - CERTAIN)
        scores = np.log(confidence / (1 - confidence)) - EVENNESS * np.log(state.unevenness)
        ascending = np.lexsort((scores, state.pictures))
        return ascending[np.flatnonzero(np.diff(state.pictures, append=-1))]

    def postprocess(self, outputs: Tensors, state: Candidates | None) -> DigitsResponse:  # noqa: ARG002
        """Return the digits for `probabilities`, float32 `[n, 10]`."""
        return DigitsResponse(
            model=self.name,
            version=self.version,
            predictions=[
                Digit(digit=row.index(max(row)), confidence=max(row), probabilities=row)
                for row in outputs["probabilities"].tolist()
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """Return `ink`, the mean pixel, and `off_centre`, the centre of mass's distance from the middle in pixels."""
        ink, down, right = (inputs["pictures"].reshape(-1, SIZE * SIZE).astype(np.float32) @ _MOMENTS).T
        return {"ink": ink / SIZE**2, "off_centre": np.hypot(down, right) / np.maximum(ink, 1)}


def _open(images: list[bytes]) -> list[Picture]:
    """Read the headers of all pictures and check their sizes before any is decoded."""
    pictures = []
    for number, data in enumerate(images):
        with _errors_name(number):
            pictures.append(open_picture(data))
    check_total_pixels(pictures)
    return pictures


def _crops(picture: Picture, number: int) -> list[Crop]:
    with _errors_name(number):
        return crops(picture.read_grey())


@contextmanager
def _errors_name(number: int) -> Iterator[None]:
    """Raise errors of one picture with its number in them."""
    try:
        yield
    except (Invalid, TooLarge) as error:
        fault = Fault(("images", number), error.detail)
        raise type(error)(f"Picture {number}: {error.detail}", faults=(fault,)) from error
