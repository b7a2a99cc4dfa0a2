"""Fashion: new pieces of clothing to order. The order and the answer, and how a seed becomes the generator's latents.

Training draws its samples from the same `latents`, so that a picture on the model card can be had from the server.
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

from service.tasks.base import MAX_ITEMS, Answer, Payload, Task, null_as
from service.tensors import Array, Tensors

Label = Literal[
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
]
CLASSES: tuple[Label, ...] = get_args(Label)
"""Fashion-MNIST's names, in the order of its labels 0 to 9."""
LATENT = 64
"""Numbers from which the generator draws one picture."""
COUNT, TRUNCATION = 16, 1.0
"""The defaults of an order."""
MAX_SEED = 2**63 - 1
EXACT_SEEDS = 2**53
"""Seeds below are drawn where a client names none: every JSON reader takes them for what they are."""
PADDING = 2
"""Pixels between the pictures of a grid, and around them."""

Pictures = npt.NDArray[np.uint8]

_OFFICIAL = {name.casefold(): name for name in CLASSES}


def _official(name: Any) -> Any:
    """The official spelling of a class name in any case; what is no class name is left for the validation to refuse."""
    return _OFFICIAL.get(name.strip().casefold(), name) if isinstance(name, str) else name


class FashionRequest(Payload):
    """An order of clothing."""

    count: Annotated[int, Field(strict=True, ge=1, le=MAX_ITEMS), null_as(COUNT)] = COUNT
    """Pieces to draw."""
    seed: Annotated[int, Field(strict=True, ge=0, le=MAX_SEED)] | None = None
    """The same seed gives the same pieces; without one a fresh one is drawn, and reported."""
    label: Annotated[Label, BeforeValidator(_official)] | None = None
    """What to draw, in upper or lower case; without it all ten classes take turns."""
    truncation: Annotated[float, Field(strict=True, ge=0.1, le=2.0), null_as(TRUNCATION)] = TRUNCATION
    """Below 1 the pieces are more typical and more alike, above 1 more varied and less certain."""


def png(picture: Pictures) -> bytes:
    """A grey picture, uint8 `[height, width]`, as PNG."""
    encoded: bytes = cv2.imencode(".png", picture)[1].tobytes()
    return encoded


def _base64_png(picture: Pictures) -> str:
    return base64.b64encode(png(picture)).decode()


class Clothing(BaseModel):
    """One piece."""

    # An array until an answer in JSON asks for it: a grid of all pieces needs no PNG of each.
    image: Annotated[
        Any,
        PlainSerializer(_base64_png, return_type=str),
        WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    ]
    """PNG of 28x28 grey pixels, white on black, in base64."""
    label: Label
    """What it was meant to be."""


class FashionAnswer(Answer):
    """One `Clothing` per piece, and the seed that gives them again."""

    seed: int
    predictions: list[Clothing]


@dataclass(frozen=True, slots=True)
class Order:
    """What an answer has to know of its request: the seed, and each piece's class, 0 to 9."""

    seed: int
    labels: npt.NDArray[np.int64]


def latents(seed: int, count: int) -> npt.NDArray[np.float32]:
    """Independent standard normal latents, float32 `[count, LATENT]`; fewer of a seed are the first of more.

    Args:
        seed: 0 to `MAX_SEED`.
    """
    # NumPy promises Philox's bits for good, but not what its Generator makes of them (NEP 19): hence Box and Muller.
    uniform = ((_bits(seed, "latents", count * LATENT) >> np.uint64(11)) + 0.5) * 2.0**-53
    one, other = uniform.reshape(count, 2, LATENT // 2).swapaxes(0, 1)
    radius, angle = np.sqrt(-2 * np.log(one)), 2 * np.pi * other
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32)


def turns(seed: int, count: int) -> npt.NDArray[np.int64]:
    """Classes, int64 `[count]`, that take turns in an order drawn from the seed: any ten in a row are all ten."""
    order = np.argsort(_bits(seed, "turns", len(CLASSES)), kind="stable")
    return np.resize(order, count).astype(np.int64)


def _bits(seed: int, purpose: Literal["latents", "turns"], count: int) -> npt.NDArray[np.uint64]:
    """The first `count` numbers of one of the seed's streams, which are independent of each other."""
    stream = ("latents", "turns").index(purpose)
    return np.random.Philox(key=np.array([seed, stream], np.uint64)).random_raw(count)


def grid(pictures: Pictures, padding: int = PADDING) -> Pictures:
    """Pictures, uint8 `[n, height, width]`, as one that is nearly square, row by row; empty places stay black."""
    count, height, width = pictures.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + padding, width + padding), np.uint8)
    cells[:count, padding:, padding:] = pictures
    joined = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2).reshape(rows * cells.shape[1], -1)
    return np.pad(joined, ((0, padding), (0, padding)))


class FashionTask(Task[FashionRequest, Order, FashionAnswer]):
    """Orders to pictures.

    The latents are scaled by the fourth root of the truncation, 0.56 to 1.19. So 1 is the distribution that the
    generator learned, and the same seed keeps its pieces, more alike or more varied. The truncation itself would not
    do: a latent much shorter or longer than those of training, 8 give or take 1, gives no clothing. (Nor would the
    other way, to draw again what lies beyond a bound: at 1 it halves the latents, at 0.1 they vanish.)
    """

    name = "fashion"
    Request = FashionRequest
    Answer = FashionAnswer
    media_types = ("image/png", "application/json")
    inputs = ("latent", "label")
    bounds = MappingProxyType({"label": (0, len(CLASSES) - 1)})
    outputs = ("picture",)

    def is_repeatable(self, request: FashionRequest) -> bool:
        return request.seed is not None

    def decode(self, request: FashionRequest) -> tuple[Tensors, Order]:
        """`latent`, float32 `[n, LATENT]`, and `label`, int64 `[n]`."""
        seed = secrets.randbelow(EXACT_SEEDS) if request.seed is None else request.seed
        if request.label is None:
            labels = turns(seed, request.count)
        else:
            labels = np.full(request.count, CLASSES.index(request.label), np.int64)
        latent = latents(seed, request.count) * np.float32(request.truncation**0.25)
        return {"latent": latent, "label": labels}, Order(seed, labels)

    def describe(self, outputs: Tensors, facts: Order) -> FashionAnswer:
        """From `picture`, uint8 `[n, 28, 28]`."""
        pictures = outputs["picture"].astype(np.uint8, copy=False)
        return FashionAnswer(
            model=self.name,
            version=self.version,
            seed=facts.seed,
            predictions=[
                Clothing(image=picture, label=CLASSES[label])
                for picture, label in zip(pictures, facts.labels, strict=True)
            ],
        )

    @staticmethod
    def features(inputs: Tensors) -> Mapping[str, Array]:
        """`latent_length`, 8 give or take 1 in training. Which class to draw is a wish: it cannot drift."""
        return {"latent_length": np.linalg.norm(inputs["latent"].astype(np.float64), axis=1)}

    @classmethod
    def render(cls, answer: FashionAnswer, media_type: str) -> tuple[bytes, dict[str, str]]:
        """All pieces in one picture, their seed in the header `X-Seed`."""
        if media_type != "image/png":
            return super().render(answer, media_type)
        return png(grid(np.stack([piece.image for piece in answer.predictions]))), {"X-Seed": str(answer.seed)}
