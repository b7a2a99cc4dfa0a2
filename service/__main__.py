"""The command line: `python -m service [serve | verify | doctor]`."""

import argparse
import os
import signal
import sys
from io import TextIOWrapper
from pathlib import Path

from service.errors import StartupError


def main() -> None:
    """Run the command line.

    Exit with 0 on success or when a signal stops the server, 1 on failure, and 2 if the command line is invalid.
    """
    _use_utf8()
    _open_standard_streams()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's pool has a thread for each core of the host
    chosen = _command_line().parse_args()
    try:
        status = chosen.run(chosen)
        sys.stdout.flush()
    except StartupError as error:
        raise SystemExit(f"deepserve: {error}") from error
    except OSError as error:  # for example a full disk, or a closed pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python writes the rest at exit
        raise SystemExit(f"deepserve: {error}") from error
    except KeyboardInterrupt:
        status = 128 + signal.SIGINT
    raise SystemExit(status)


def _use_utf8() -> None:
    """Restart in UTF-8 mode if the locale has another encoding: paths and files are UTF-8 in any case."""
    if sys.getfilesystemencoding() != "utf-8":
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _open_standard_streams() -> None:
    """Open closed standard streams, so that no other file gets their descriptors."""
    closed = {number for number in range(3) if not _is_open(number)}
    for _ in closed:
        null = os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor
        os.set_inheritable(null, True)
    if 1 in closed and 2 not in closed:
        os.dup2(2, 1)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # file names need not be valid text


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m service",
        description="Serve the models. Every setting is an environment variable; `doctor` lists them.",
    )
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")
    commands.add_parser("serve", help="serve until a signal stops the server (the default)")
    verify = commands.add_parser("verify", help="check versions of models against their cards before they are served")
    verify.add_argument(
        "folder",
        nargs="+",
        type=Path,
        help="a version such as models/digits/2, a model, or the directory of all models",
    )
    verify.set_defaults(run=_verify)
    doctor = commands.add_parser(
        "doctor", help="show what would be served and on which device, or why not, without starting a server"
    )
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.set_defaults(run=_doctor)
    return parser


def _serve(_: argparse.Namespace) -> int:
    """Serve. Signals stop the server from here on, also during its imports."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nothing to reload yet
    from service.commands.serve import serve

    serve()
    return 0


def _stop(*_: object) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # another signal would interrupt the exit
    sys.exit(0)


def _verify(asked: argparse.Namespace) -> int:
    from service.commands import startup

    startup.check_runtime()
    from service.commands import verify  # it imports ONNX Runtime

    try:
        sound = verify.verify(asked.folder)
    except verify.NothingThereError as error:
        print(f"deepserve: {error}", file=sys.stderr)
        return 2
    return int(not sound)


def _doctor(asked: argparse.Namespace) -> int:
    from service.commands import doctor

    return int(not doctor.show(doctor.examine(), asked.json))


if __name__ == "__main__":
    main()
