"""The temporary folder of a server: made once, removed with the server, or by the next server if that was killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.processes.folder import temporary_folder
from tests.places import ROOT

PROGRAM = """
import sys
from service.processes.folder import shared_folder
print(shared_folder(), flush=True)
assert shared_folder() == shared_folder()
sys.stdin.read()
"""


class Server:
    """A process that has a folder."""

    def __init__(self, temporary: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env={"TMPDIR": str(temporary)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.folder = Path(self._process.stdout.readline().rstrip("\n"))

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self._process.send_signal(signal.SIGKILL)
        self._process.communicate(timeout=20)


def test_a_folder_goes_with_its_server(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.folder.parent == tmp_path
    assert server.folder.is_dir()
    server.end()
    assert list(tmp_path.iterdir()) == []


def test_the_next_server_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("deepserve", "deepserve-server-mine", "bentoml")]
    for other in others:
        other.mkdir()
    running, killed = Server(tmp_path), Server(tmp_path)
    killed.end(kill=True)
    assert killed.folder.exists()
    following = Server(tmp_path)
    assert {*tmp_path.iterdir()} == {*others, running.folder, following.folder}
    following.end()
    running.end()


def test_temporary_files_are_where_tmpdir_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/somewhere")
    assert temporary_folder() == Path("/somewhere")
    monkeypatch.delenv("TMPDIR")
    assert temporary_folder() == Path("/tmp")
