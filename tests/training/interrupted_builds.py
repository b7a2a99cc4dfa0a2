"""Build a version again and again, stopping at every moment at which a file is touched; report what is left behind.

Run by `test_version.py` in a process of its own, since it forks. Prints one JSON object a line.
"""

import errno
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from service.registry.card import Card, digests
from service.registry.verification import verify_files
from training.run import Run
from training.version import VersionBuilder

FILE_EVENTS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree", "os.scandir", "os.listdir"}
WRITE_EVENTS = {"open", "os.mkdir", "os.rename"}


def build(source: Path, out: Path) -> None:
    """Build a version from the files of another one."""
    run = Run("mammogram", out, models_dir=out.parent.parent, history=[{"epoch": 1, "loss": 0.5}])
    with VersionBuilder(out) as builder:
        for path in source.iterdir():
            if path.name not in ("card.json", "README.md"):
                shutil.copyfile(path, builder.directory / path.name)
        builder.publish(Card.read(source).model_copy(update={"version": out.name, "files": {}}), run)


def stop_at(moment: int, how: str) -> None:
    """Have this process killed, interrupted or refused by a full disk at a file operation."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in (WRITE_EVENTS if how == "full disk" else FILE_EVENTS) or "/models/" not in str(arguments[0]):
            return
        if how == "full disk" and event == "open" and not str(arguments[1]).startswith(("w", "a", "x")):
            return
        count += 1
        if how == "full disk" and count >= moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))
        if count == moment:
            if how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt

    sys.addaudithook(hook)


def in_child(work: Callable[[], None]) -> int:
    """Return the exit status of a forked process: 0 done, 3 interrupted, 4 refused, -9 killed."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except KeyboardInterrupt:
            os._exit(3)
        except BaseException as error:
            os._exit(4 if isinstance(error, OSError) or error.__class__.__name__ == "OutputError" else 5)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(source: Path, models: Path, how: str) -> None:
    """Stop at every moment in turn until a build ends undisturbed."""
    old, out = models / "mammogram" / "1", models / "mammogram" / "2"
    checkpoint = out.parent / ".2.checkpoint.pt"
    before = digests(old)
    for moment in range(1, 500):
        checkpoint.write_bytes(b"epochs of work")

        def work(moment: int = moment) -> None:
            stop_at(moment, how)
            build(source, out)

        status = in_child(work)
        complete = out.exists()
        if complete:
            verify_files(out)
        found = {
            "status": status,
            "complete": complete,
            "old_untouched": digests(old) == before,
            "checkpoint": checkpoint.exists(),
        }
        print(json.dumps(found))
        shutil.rmtree(out, ignore_errors=True)
        if status == 0:
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
