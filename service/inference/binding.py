"""Bind a task to a version of its model.

The model `models/<name>` belongs to the task `TASKS[name]`.
"""

from collections.abc import Iterable
from pathlib import Path

from service.errors import clean_message
from service.registry.card import Card
from service.registry.verification import VerificationError
from service.tasks import TASKS
from service.tasks.base import AnyTask


def bind(directory: Path, card: Card) -> AnyTask:
    """Return the task of a model for the version in `directory`.

    Args:
        directory: of the version.
        card: of the version.

    Raises:
        VerificationError: there is no task for the model, its inputs or outputs differ from the version's, or it cannot
            read the version's files.
    """
    if (task := TASKS.get(card.name)) is None:
        raise VerificationError("there is no task of this name")
    inputs, outputs = ({spec.name for spec in specs} for specs in (card.inputs, card.outputs))
    if inputs != set(task.inputs) or not outputs.issuperset(task.outputs):
        raise VerificationError(
            f"the task {task.name} makes {_list(task.inputs)} and takes {_list(task.outputs)}, "
            f"the version takes {_list(inputs)} and makes {_list(outputs)}"
        )
    try:
        return task(directory)
    except Exception as error:  # a task may read any file, and each may be broken in any way
        raise VerificationError(f"the task {task.name} cannot work with it: {clean_message(str(error))}") from error


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
