"""`python -m training NAME`: trains one model and writes its directory under models/."""

import argparse
import dataclasses
import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import torch

from training.published import DataError
from training.run import Run


@dataclass(frozen=True)
class Trainer:
    """A module with `Hyperparameters`, `SMOKE` and `train`, and the directory it fills."""

    module: str
    out: str


TRAINERS = {
    "digits": Trainer("training.digits", "models/digits/2"),
    "digits-mlp": Trainer("training.digits_mlp", "models/digits/1"),
    "sentiment": Trainer("training.sentiment", "models/sentiment/1"),
    "mammogram": Trainer("training.mammogram", "models/mammogram/1"),
    "fashion": Trainer("training.fashion", "models/fashion/1"),
    "fashion-judge": Trainer("training.fashion_judge", "training/fashion_judge.onnx"),
}


def main() -> None:
    """Train one model, with the settings and the caches of matplotlib in a temporary folder instead of the home."""
    with TemporaryDirectory() as folder:
        os.environ.setdefault("MPLCONFIGDIR", folder)
        _train()


def _train() -> None:
    """Reads the command line, trains, and says where the model is."""
    names = argparse.ArgumentParser(prog="python -m training", description=__doc__, add_help=len(sys.argv) < 3)
    names.add_argument("name", choices=TRAINERS, help="what to train; NAME --help lists its options")
    name = names.parse_known_args()[0].name
    trainer = TRAINERS[name]
    module = importlib.import_module(trainer.module)
    options = _options(name, trainer, module).parse_args(sys.argv[2:])
    chosen = {
        field.name: value
        for field in dataclasses.fields(module.Hyperparameters)
        if (value := getattr(options, field.name)) is not None
    }
    run = Run(
        name=name,
        out=options.out or (Path("smoke") if options.smoke else Path()) / trainer.out,
        device=_device(options.device),
        seed=options.seed,
        data_dir=options.data_dir,
        resume=options.resume,
        smoke=options.smoke,
    )
    try:
        module.train(module.Hyperparameters(**({**module.SMOKE, **chosen} if run.smoke else chosen)), run)
    except DataError as error:
        raise SystemExit(f"python -m training {name}: {error}") from error
    print(f"{run.out} written after {run.seconds:.0f} s")


def _options(name: str, trainer: Trainer, module: ModuleType) -> argparse.ArgumentParser:
    command = argparse.ArgumentParser(
        prog=f"python -m training {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_run_options(command, trainer)
    _add_hyperparameters(command, module.Hyperparameters)
    return command


def _add_run_options(command: argparse.ArgumentParser, trainer: Trainer) -> None:
    command.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train")
    command.add_argument("--seed", type=int, default=0, help="of every random choice")
    command.add_argument("--data-dir", type=Path, help="where the data sets are (DEEPSERVE_DATA_DIR)")
    command.add_argument(
        "--out", type=Path, help=f"what to write (default: {trainer.out}, with --smoke smoke/{trainer.out})"
    )
    command.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    command.add_argument("--smoke", action="store_true", help="the whole way on little data, in under a minute")


def _add_hyperparameters(command: argparse.ArgumentParser, hyperparameters: Any) -> None:
    """One option for each field of the dataclass; those not given keep the dataclass' (or the smoke run's) default."""
    hints = get_type_hints(hyperparameters)
    for field in dataclasses.fields(hyperparameters):
        kind = hints[field.name]
        literal = get_origin(kind) is Literal
        command.add_argument(
            "--" + field.name.replace("_", "-"),
            type=str if literal else kind,
            choices=get_args(kind) if literal else None,
            default=None,
            help=f"default: {field.default}",
        )


def _device(wanted: str) -> torch.device:
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    elif wanted == "cuda" and not torch.cuda.is_available():
        raise SystemExit("--device cuda: torch finds no CUDA device")
    return torch.device(wanted)


if __name__ == "__main__":
    main()
