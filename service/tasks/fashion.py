"""Fashion: generate pictures of clothing.

Training draws its samples from the same `latents`, so the server can reproduce every picture on the model card.
"""

import base64
import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, Any, Literal, get_args

import cv2
import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from service.tasks.base import MAX_ITEMS, Rendering, Request, Response, Task, null_as
from service.tensors import Array, Tensors

Label = Literal[
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
]
CLASSES: tuple[Label, ...] = get_args(Label)
"""Fashion-MNIST's class names, in the order of its labels 0 to 9."""
LATENT = 64
"""Length of the generator's input for one picture."""
COUNT, TRUNCATION = 16, 1.0
"""Defaults of a request."""
MAX_SEED = 2**63 - 1
EXACT_SEEDS = 2**53
"""Upper bound of the seeds that the service draws: every JSON reader represents smaller integers exactly."""
PADDING = 2
"""Pixels between the pictures of a grid and around them."""

Pictures = npt.NDArray[np.uint8]

_OFFICIAL = {name.casefold(): name for name in CLASSES}


def _official(name: Any) -> Any:
    """Return the official spelling of a class name in any case. Validation rejects other values later."""
    return _OFFICIAL.get(name.strip().casefold(), name) if isinstance(name, str) else name


class FashionRequest(Request):
    """Which pieces of clothing to generate."""

    count: Annotated[int, Field(strict=True, ge=1, le=MAX_ITEMS), null_as(COUNT)] = COUNT
    """Number of pieces."""
    seed: Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)] | None = None
    """The same seed gives the same pieces. Without one, the service draws a seed and returns it."""
    label: Annotated[Label, BeforeValidator(_official)] | None = None
    """Class of all pieces, in upper or lower case. Without one, the ten classes take turns."""
    truncation: Annotated[float, Field(strict=True, ge=0.1, le=2.0), null_as(TRUNCATION)] = TRUNCATION
    """Below 1 the pieces are more typical and more alike; above 1 they are more varied and less certain."""


def png(picture: Pictures) -> bytes:
    """Encode a grey picture, uint8 `[height, width]`, as PNG."""
    encoded: bytes = cv2.imencode(".png", picture)[1].tobytes()
    return encoded


def _base64_png(picture: Pictures) -> str:
    return base64.b64encode(png(picture)).decode()


class Clothing(BaseModel):
    """One piece."""

    # An array until the response is serialized as JSON: the grid of all pieces needs no PNG of each.
    image: Annotated[
        Any,
        PlainSerializer(_base64_png, return_type=str),
        WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    ]
    """PNG of 28x28 grey pixels, white on black, in base64."""
    label: Label
    """Class that the generator was asked for."""


class FashionResponse(Response):
    """One `Clothing` per piece, and the seed that reproduces them."""

    seed: int
    predictions: list[Clothing]


@dataclass(frozen=True, slots=True)
class Order:
    """The seed of a request and the class of each piece, int64 `[count]`, 0 to 9."""

    seed: int
    labels: npt.NDArray[np.int64]


def latents(seed: int, count: int) -> npt.NDArray[np.float32]:
    """Return independent standard normal latents, float32 `[count, LATENT]`.

    A smaller count gives the first rows of a larger one.

    Args:
        seed: 0 to `MAX_SEED`.
    """
    # NumPy promises Philox's bits for good, but not what its Generator makes of them (NEP 19): hence Box and Muller.
    uniform = ((_bits(seed, "latents", count * LATENT) >> np.uint64(11)) + 0.5) * 2.0**-53
    one, other = uniform.reshape(count, 2, LATENT // 2).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log(one)), 2 * np.pi * other
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def turns(seed: int, count: int) -> npt.NDArray[np.int64]:
    """Return classes, int64 `[count]`, in an order drawn from the seed: any ten in a row are all ten."""
    order = np.argsort(_bits(seed, "turns", len(CLASSES)), kind="stable")
    return np.resize(order, count).astype(np.int64)


def _bits(seed: int, purpose: Literal["latents", "turns"], count: int) -> npt.NDArray[np.uint64]:
    """Return the first `count` numbers of one of the seed's independent streams."""
    stream = ("latents", "turns").index(purpose)
    return np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(count)


def grid(pictures: Pictures, padding: int = PADDING) -> Pictures:
    """Arrange pictures, uint8 `[n, height, width]`, in a nearly square grid, row by row. Empty cells are black."""
    count, height, width = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + padding, width + padding), np.uint8)
    cells[:count, padding:, padding:] = pictures
    joined = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2).reshape(rows * cells.shape[1], -1)
    return np.pad(joined, ((0, padding), (0, padding)))


class FashionTask(Task[FashionRequest, Order, FashionResponse]):
    """Pictures of clothing from a seed.

    The latents are scaled by the fourth root of the truncation, 0.56 to 1.19: at 1 they have the distribution of
    training, and a seed keeps its pieces at every truncation. Scaling by the truncation itself fails, because the
    generator draws no clothing from latents much shorter or longer than in training (8, give or take 1). Drawing values
    beyond a bound again fails too: at 1 it halves the latents, at 0.1 they vanish.
    """

    name = "fashion"
    Request = FashionRequest
    Response = FashionResponse
    media_types = ("image/png", "application/json")
    inputs = ("latent", "label")
    bounds = MappingProxyType({"label": (0, len(CLASSES) - 1)})
    outputs = ("picture",)

    def is_repeatable(self, request: FashionRequest) -> bool:
        return request.seed is not None

    def preprocess(self, request: FashionRequest) -> tuple[Tensors, Order]:
        """Return `latent`, float32 `[n, LATENT]`, and `label`, int64 `[n]`."""
        seed = secrets.randbelow(EXACT_SEEDS) if request.seed is None else request.seed
        if request.label is None:
            labels = turns(seed, request.count)
        else:
            labels = np.full(request.count, CLASSES.index(request.label), np.int64)
        latent = latents(seed, request.count) * np.float32(request.truncation**0.25)
        return {"latent": latent, "label": labels}, Order(seed, labels)

    def postprocess(self, outputs: Tensors, state: Order) -> FashionResponse:
        """Return the pieces for `picture`, uint8 `[n, 28, 28]`."""
        pictures = outputs["picture"].astype(np.uint8, copy=False)
        return FashionResponse(
            model=self.name,
            version=self.version,
            seed=state.seed,
            predictions=[
                Clothing(image=picture, label=CLASSES[label])
                for picture, label in zip(pictures, state.labels, strict=True)
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """Return `latent_length`, 8 give or take 1 in training. The class is the client's choice: it cannot drift."""
        return {"latent_length": np.linalg.norm(inputs["latent"].astype(np.float64), axis=1)}

    @classmethod
    def render(cls, response: FashionResponse, media_type: str) -> Rendering:
        """Return all pieces in one picture, with the seed as metadata."""
        if media_type != "image/png":
            return super().render(response, media_type)
        picture = png(grid(np.stack([piece.image for piece in response.predictions])))
        return Rendering(picture, {"seed": str(response.seed)})
