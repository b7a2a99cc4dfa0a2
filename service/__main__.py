"""`python -m service`: serves, and says before what could not be served and why."""

import argparse
import os
import signal
import sys
from pathlib import Path

from service.errors import StartupError


def main() -> None:
    """Does what the command line asks for.

    Exits with 0 if all is well, 1 if something is not, 2 if the command line is wrong.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's pool has a thread for each core of the host
    chosen = _command_line().parse_args()
    try:
        chosen.run(chosen)
    except StartupError as error:
        raise SystemExit(f"deepserve: {error}") from error


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serves the models. Every setting is an environment variable; `doctor` lists them.",
    )
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    commands.add_parser("serve", help="serve until told to stop; what is done without a command")
    verify = commands.add_parser("verify", help="hold versions of models against their cards, before they are served")
    verify.add_argument("folder", nargs="+", type=Path, help="a version, as models/digits/2, a model, or all models")
    verify.set_defaults(run=_verify)
    doctor = commands.add_parser("doctor", help="say what would be served here and on what, or why not; start nothing")
    doctor.add_argument("--json", action="store_true", help="for programs")
    doctor.set_defaults(run=_doctor)
    return parser


def _serve(_: argparse.Namespace) -> None:
    """Serve; a signal that stops the server counts from here on, also while it is imported."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to reload yet
    from service.commands.serve import serve

    serve()


def _verify(asked: argparse.Namespace) -> None:
    from service.commands import startup

    startup.check_runtime()
    from service.commands import verify  # which needs it

    try:
        sound = verify.verify(asked.folder)
    except verify.NothingThereError as error:
        print(f"deepserve: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    raise SystemExit(not sound)


def _doctor(asked: argparse.Namespace) -> None:
    from service.commands import doctor

    raise SystemExit(not doctor.show(doctor.examine(), asked.json))


if __name__ == "__main__":
    main()
