"""Which task answers for which model, and whether the two fit.

The task of `models/<name>` is `TASKS[name]`.
"""

from collections.abc import Iterable
from pathlib import Path

from service.errors import clean_message
from service.registry.card import Card
from service.registry.verification import VerificationError
from service.tasks import TASKS
from service.tasks.base import AnyTask as AnyTask  # for the other modules of this package
from service.tensors import TensorSpec


def task(name: str) -> type[AnyTask] | None:
    """The predictor of a model; None if there is none."""
    return TASKS.get(name)


def bind(predictor: type[AnyTask], directory: Path, card: Card) -> AnyTask:
    """The predictor before the version in `directory`.

    Raises:
        VerificationError: it cannot work with the version, and why.
    """
    given, taken = _names(card.inputs), _names(card.outputs)
    if given != set(predictor.inputs) or not set(predictor.outputs) <= taken:
        raise VerificationError(
            f"the task {predictor.name} makes {_list(predictor.inputs)} and takes {_list(predictor.outputs)}, "
            f"the version takes {_list(given)} and makes {_list(taken)}"
        )
    try:
        return predictor(directory)
    except Exception as error:  # whatever a predictor reads, and however that may be broken
        raise VerificationError(
            f"the task {predictor.name} cannot work with it: {clean_message(str(error))}"
        ) from error


def _names(tensors: Iterable[TensorSpec]) -> set[str]:
    return {tensor.name for tensor in tensors}


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
