"""The state directory of a server: created once, and removed by the server or, if that was killed, by the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service.processes.state_directory import temporary_directory
from tests.paths import ROOT

PROGRAM = """
import sys
from service.processes.state_directory import state_directory
print(state_directory(), flush=True)
assert state_directory() == state_directory()
sys.stdin.read()
"""


class Server:
    """A process with a state directory."""

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
        self.directory = Path(self._process.stdout.readline().rstrip("\n"))

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self._process.send_signal(signal.SIGKILL)
        self._process.communicate(timeout=20)


def test_a_server_removes_its_state_directory_at_exit(tmp_path: Path) -> None:
    server = Server(tmp_path)
    assert server.directory.parent == tmp_path
    assert server.directory.is_dir()
    server.end()
    assert list(tmp_path.iterdir()) == []


def test_the_next_server_removes_only_the_directories_of_killed_servers(tmp_path: Path) -> None:
    others = [tmp_path / name for name in ("deepserve", "deepserve-server-mine", "bentoml")]
    for other in others:
        other.mkdir()
    running, killed = Server(tmp_path), Server(tmp_path)
    killed.end(kill=True)
    assert killed.directory.exists()
    following = Server(tmp_path)
    assert {*tmp_path.iterdir()} == {*others, running.directory, following.directory}
    following.end()
    running.end()


def test_temporary_files_are_in_tmpdir(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/somewhere")
    assert temporary_directory() == Path("/somewhere")
    monkeypatch.delenv("TMPDIR")
    assert temporary_directory() == Path("/tmp")
