"""`make load`: users of every task, asking at once, every answer checked.

The number of users follows `--shape` up to `--users` over `--run-time`; the options `--slo-...` say when a run fails.
Over several machines: `locust -f load_tests/users/locustfile.py --worker --master-host ...` on each that asks, and on
one `--config load_tests/users/locust.conf --master --expect-workers N`. All need the file of questions.
"""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any, ClassVar

from locust import FastHttpUser, LoadTestShape, between, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from load_tests.questions import FILE, Question, read
from load_tests.users.judge import Judge
from load_tests.users.shapes import SHAPES
from load_tests.users.slo import GROWTH_MB

LOST_SECONDS = 10.0
"""An answer that has not come by then counts as lost."""


def ask(user: "TaskUser") -> None:
    """One request of the user's task, the next in turn, and a look at the answer."""
    question = next(user.questions)
    sent: dict[str, Any] = {
        "data": question.body,
        "headers": {**question.headers, "X-Request-ID": question.name},
        "catch_response": True,
    }
    with user.client.post(question.path, name=user.task, **sent) as answer:
        identity = answer.headers.get("X-Request-ID") if answer.headers else None
        fault = question.fault(answer.status_code, identity, answer.content or b"")
        answer.success() if fault is None else answer.failure(fault)


class TaskUser(FastHttpUser):
    """Asks one task, thinks for a moment, and asks again."""

    abstract = True
    task: ClassVar[str]
    questions: ClassVar[Iterator[Question]]
    """Over and over, shared by all users of the task: no two ask the same at once."""
    tasks: list[Any] = [ask]  # noqa: RUF012 -- an instance variable to Locust
    wait_time = between(0.05, 0.15)
    network_timeout = connection_timeout = LOST_SECONDS


class DigitsUser(TaskUser):
    """Shows pictures of digits."""

    task = "digits"
    weight = 5


class SentimentUser(TaskUser):
    """Shows film reviews."""

    task = "sentiment"
    weight = 2


class MammogramUser(TaskUser):
    """Describes masses."""

    task = "mammogram"
    weight = 2


class FashionUser(TaskUser):
    """Orders pictures of clothing."""

    task = "fashion"
    weight = 1


class Shape(LoadTestShape):
    """Users by time, as `--shape` says."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Users that should be there, and how many may come in a second; None at the end."""
        assert self.runner is not None
        options = _options(self.runner.environment)
        gone = self.get_run_time() / options.run_time  # type: ignore[no-untyped-call]
        users = options.num_users
        return (max(1, round(users * SHAPES[options.shape](gone))), users) if gone < 1 else None


def _add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--shape", choices=SHAPES, default="steps", help="how the number of users goes on")
    parser.add_argument("--questions", default=str(FILE), help="made by python -m load_tests.prepare")
    parser.add_argument(
        "--slo-growth", type=float, default=GROWTH_MB, env_var="SLO_GROWTH", help="megabytes that a soak may add"
    )
    parser.add_argument("--slo-failures", type=float, default=0.0, env_var="SLO_FAILURES", help="share that may fail")
    parser.add_argument(
        "--slo-p99", default="", env_var="SLO_P99", help="milliseconds at most by task: digits=50,sentiment=120"
    )


def _prepare(environment: Environment, **_: Any) -> None:
    """Hands out the questions, and lets the run be judged where the figures of all are together."""
    if isinstance(environment.runner, WorkerRunner):
        environment.process_exit_code = 0
    else:
        judge = Judge(_options(environment))
        environment.events.test_start.add_listener(judge.start)
        environment.events.quitting.add_listener(judge.end)
    if isinstance(environment.runner, MasterRunner):
        return
    questions = read(Path(_options(environment).questions))
    for user in environment.user_classes:
        assert issubclass(user, TaskUser)
        if user.task not in questions:
            raise SystemExit(f"there are no questions for {user.task}: python -m load_tests.prepare makes them")
        user.questions = cycle(questions[user.task])


def _options(environment: Environment) -> Any:
    """Locust's own and those added here."""
    return environment.parsed_options


events.init_command_line_parser.add_listener(_add_options)
events.init.add_listener(_prepare)
