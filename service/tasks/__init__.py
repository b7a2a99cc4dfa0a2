"""The tasks of the service. A new task is a module in this package and an entry in `TASKS`."""

from service.tasks.base import AnyTask
from service.tasks.digits import DigitsTask
from service.tasks.fashion import FashionTask
from service.tasks.mammogram import MammogramTask
from service.tasks.sentiment import SentimentTask

TASKS: dict[str, type[AnyTask]] = {task.name: task for task in (DigitsTask, SentimentTask, MammogramTask, FashionTask)}
"""By name, every task; a model is served by the task of the same name."""
