"""Which task belongs to which model, and whether the two fit.

The task of `models/<name>` is the `Task` of that name in `service/tasks/<name>.py`.
"""

from collections.abc import Iterable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from service.engine.onnx.errors import readable
from service.registry.card import Card
from service.registry.verification import VerificationError
from service.tasks.base import Task

AnyTask = Task[Any, Any, Any]


def find_task(name: str) -> type[AnyTask] | None:
    """Return the task of a model; None if there is none."""
    module = f"service.tasks.{name}"
    try:
        import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        return None
    return next((found for found in Task.__subclasses__() if (found.__module__, found.name) == (module, name)), None)


def find_tasks(names: Iterable[str]) -> dict[str, type[AnyTask]]:
    """Return the tasks of models, by name. Models without a task are left out."""
    return {name: task for name in names if (task := find_task(name)) is not None}


def bind(tasks: Mapping[str, type[AnyTask]], directory: Path, card: Card) -> AnyTask:
    """Return the task of a model for the version in `directory`.

    Args:
        tasks: by name.
        directory: of the version.
        card: of the version.

    Raises:
        VerificationError: there is no task for the model, its inputs or outputs are not those of the version, or it
            cannot read the version's files.
    """
    if (task := tasks.get(card.name)) is None:
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
        raise VerificationError(f"the task {task.name} cannot work with it: {readable(error)}") from error


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))
