"""`python -m training`: train a model, evaluate a version, render the cards' pages, measure distributions."""

import importlib
import os
import signal
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic_settings import BaseSettings, CliApp, CliPositionalArg, CliSubCommand

from service.registry.verification import VerificationError
from training.data.download import DataError
from training.run import CheckpointError, Run
from training.version import OutputError, ParityError, check_out, check_writable, next_free_version

TRAINERS = {
    "digits": "training.digits.train",
    "digits-mlp": "training.digits.train_mlp",
    "sentiment": "training.sentiment.train",
    "mammogram": "training.mammogram.train",
    "fashion": "training.fashion.train",
    "fashion-judge": "training.fashion.judge",
}
"""Modules with `MODEL`, `Hyperparameters`, `SMOKE` and `train`. Each name is a command under `train`."""

JUDGE = "fashion-judge"
"""The one trainer that writes a file in place of a version."""


class Command(BaseModel):
    """A command or a part of its options."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class RunOptions(Command):
    """Options of every trainer."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    seed: int = Field(0, ge=0, lt=2**32)
    """Of every random choice."""
    data_dir: Path | None = None
    """Where the data sets are; default DEEPSERVE_DATA_DIR."""
    models_dir: Path = Path("models")
    """The folder of the models."""
    out: Path | None = None
    """The version to write; default the next free one in the folder of the models, with --smoke in smoke/models."""
    resume: bool = False
    """Continue from the checkpoint of an interrupted run."""
    smoke: bool = False
    """Go the whole way on little data, in under a minute."""


def _train(name: str, options: RunOptions) -> None:
    module = importlib.import_module(TRAINERS[name])
    chosen = options.model_dump(include=set(module.Hyperparameters.model_fields) & options.model_fields_set)
    h = module.Hyperparameters(**({**module.SMOKE, **chosen} if options.smoke else chosen))
    root = Path("smoke/models") if options.smoke else options.models_dir
    if name == JUDGE:
        out = options.out or Path("smoke" if options.smoke else "candidates") / "judge.onnx"
        check_writable(out)
    else:
        out = options.out or next_free_version(root / module.MODEL)
        check_out(out, module.MODEL)
    run = Run(
        name=name,
        out=out.absolute(),
        models_dir=options.models_dir,
        device=_device(options.device),
        seed=options.seed,
        data_dir=options.data_dir,
        resume=options.resume,
        smoke=options.smoke,
    )
    try:
        module.train(h, run)
    except KeyboardInterrupt:
        print(f"\n{_how_to_continue(run, options)}", file=sys.stderr)
        raise SystemExit(130) from None
    print(f"{out} written after {run.seconds:.0f} s")


def _how_to_continue(run: Run, options: RunOptions) -> str:
    if not run.checkpoint.exists():
        return "interrupted before the first checkpoint: nothing was written"
    words = [word for word in sys.argv[1:] if word != "--resume"]
    out = "" if options.out else f" --out {run.out}"
    return f"interrupted; this continues from {run.checkpoint}:\n  python -m training {' '.join(words)}{out} --resume"


def _device(wanted: str) -> torch.device:
    if wanted == "cuda" and not torch.cuda.is_available():
        raise OutputError("--device cuda: torch finds no CUDA device")
    return torch.device("cuda" if wanted == "auto" and torch.cuda.is_available() else wanted.replace("auto", "cpu"))


def _trainer_command(name: str) -> Any:
    """Return the options of one trainer as a model whose `cli_cmd` trains."""
    module: Any = importlib.import_module(TRAINERS[name])

    class Trainer(RunOptions, module.Hyperparameters):  # type: ignore[misc]
        def cli_cmd(self) -> None:
            _train(name, self)

    Trainer.__doc__ = module.__doc__
    return Trainer


class Evaluate(Command):
    """Measure versions from their graphs; with versions named, compare each with the serving one.

    Without versions, measure all shipped ones, print the README's table and fail if a figure differs from its card.
    With versions, fail if one is worse than the serving version by more than the margin.
    """

    versions: CliPositionalArg[list[Path]] = []
    """Version directories, such as models/digits/3."""
    models_dir: Path = Path("models")
    """The folder of the models; the newest other version of the same model in it is the serving one."""
    margin: float = Field(0.002, ge=0)
    """How much worse a mean over the test rows may be."""
    write: bool = False
    """Write the measured figures to the cards."""
    data_dir: Path | None = None
    """Where the data sets are; default DEEPSERVE_DATA_DIR."""

    def cli_cmd(self) -> None:
        from training import evaluate  # with scikit-learn

        if self.versions:
            compare = partial(evaluate.compare, models_dir=self.models_dir, margin=self.margin, data_dir=self.data_dir)
            good = min(list(map(partial(compare, write=self.write), self.versions)))
        else:
            good = evaluate.evaluate_all(self.models_dir, self.data_dir, self.write)
        raise SystemExit(not good)


class Cards(Command):
    """Render the pages of all versions and the README's table from the cards."""

    models_dir: Path = Path("models")
    """The folder of the models."""
    readme: Path = Path("README.md")
    """Holds the table."""
    check: bool = False
    """Change nothing; fail if something would change."""

    def cli_cmd(self) -> None:
        from training import evaluate

        stale = evaluate.render_all(self.models_dir, self.readme, self.check)
        print(*(f"{'stale' if self.check else 'written'}: {path}" for path in stale), sep="\n")
        raise SystemExit(bool(self.check and stale))


class Distributions(Command):
    """Measure anew the distributions of features on the cards, without training."""

    versions: CliPositionalArg[list[Path]] = []
    """Version directories; default all."""
    models_dir: Path = Path("models")
    """The folder of the models."""
    data_dir: Path | None = None
    """Where the data sets are; default DEEPSERVE_DATA_DIR."""

    def cli_cmd(self) -> None:
        from training import evaluate

        for directory in self.versions or evaluate.shipped(self.models_dir):
            features = evaluate.write_distributions(directory, self.data_dir)
            print(f"{directory}: {', '.join(features)}", flush=True)


class Train(Command):
    """Train a model and write a version of it."""

    def cli_cmd(self) -> None:
        CliApp.run_subcommand(self)


def command_line() -> Any:
    """Return the model of the whole command line."""
    subcommand: Any = CliSubCommand  # of models that are known at run time only
    trainers: Any = {name.replace("-", "_"): (subcommand[_trainer_command(name)], ...) for name in TRAINERS}
    train_command: Any = create_model("Train", __base__=Train, __doc__=Train.__doc__, **trainers)

    class CommandLine(BaseSettings, cli_prog_name="python -m training", cli_kebab_case=True, cli_implicit_flags=True):
        """Train, evaluate and describe the models."""

        train: subcommand[train_command]
        evaluate: CliSubCommand[Evaluate]
        cards: CliSubCommand[Cards]
        distributions: CliSubCommand[Distributions]

        def cli_cmd(self) -> None:
            CliApp.run_subcommand(self)

        @classmethod
        def settings_customise_sources(cls, *_: Any, **__: Any) -> tuple[()]:
            return ()  # the command line alone, no environment variables

    return CommandLine


def main(arguments: list[str] | None = None) -> None:
    """Run the command; exit with 1 if it found a fault, 2 if it could not start, 130 if it was interrupted."""
    try:
        with TemporaryDirectory() as folder:
            os.environ.setdefault("MPLCONFIGDIR", folder)  # matplotlib's caches, in place of the home
            CliApp.run(command_line(), cli_args=arguments)
    except ValidationError as error:
        faults = (f"--{str(fault['loc'][-1]).replace('_', '-')}: {fault['msg']}" for fault in error.errors())
        _refuse("; ".join(faults))
    except (DataError, OutputError, CheckpointError, ParityError, VerificationError) as error:
        _refuse(str(error))
    except OSError as error:
        _refuse(f"{error.filename or ''}: {error.strerror}".removeprefix(": "))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _refuse(reason: str) -> None:
    print(f"python -m training: {reason}", file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C: clears up and says how to continue
    main()
