"""No library that the commands use looks up a host, connects to one, or writes outside of where it should.

Each command runs with an empty home under strace, which sees what native code does, too.
"""

import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from load_tests.processes import free_ports
from tests.live.conftest import clean_environment, wait_for_server
from tests.paths import MODELS, ROOT
from training.data.mammographic import MAMMOGRAPHIC_MASSES

CALLS = "openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,connect,sendto,sendmsg,sendmmsg"
CREATED = re.compile(
    r'(?:openat\([^,]*, "([^"]+)", [^)]*O_CREAT|creat\("([^"]+)"|mkdir(?:at)?\((?:[^",]+, )?"([^"]+)")'
)
REMOTE = re.compile(r'sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")')
READS_MODEL = re.compile(r'openat\(.*/model(\.int8)?\.onnx", O_RDONLY')


@dataclass(frozen=True)
class Traced:
    """The system calls of a command."""

    lines: list[str]

    @classmethod
    def read(cls, file: Path) -> "Traced":
        return cls([line for line in file.read_text(errors="replace").splitlines() if "= -1 " not in line])

    @property
    def created(self) -> set[str]:
        """Return created files and directories, with the paths of directories given by descriptors."""
        return {next(filter(None, found.groups())) for line in self.lines if (found := CREATED.search(line))}

    @property
    def addresses(self) -> set[tuple[str, str]]:
        """Return the hosts and ports of its connections and packets."""
        found = (match for line in self.lines for match in REMOTE.finditer(line))
        return {(match[2] or match[3], match[1]) for match in found}


@dataclass(frozen=True)
class Sandbox:
    """A directory of the test, with an empty home and a directory for temporary files."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        without = ("ORT_DISABLE_TELEMETRY", "BENTOML_", "MPLCONFIGDIR", "XDG_", "HF_", "OTEL_")
        inherited = {name: value for name, value in clean_environment().items() if not name.startswith(without)}
        return {
            **inherited,
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "GIT_OPTIONAL_LOCKS": "0",  # training asks git for the commit
            "DEEPSERVE_MODELS_DIR": str(self.folder / "models"),
            "DEEPSERVE_PORT": str(free_ports(1)[0]),
        }

    def traced(self, *command: str) -> list[str]:
        """Run the command under strace."""
        options = ["-f", "-qq", "-y", "-s", "256", "--seccomp-bpf", "-e", f"trace={CALLS}"]
        return ["strace", *options, "-o", str(self.folder / "trace"), sys.executable, "-m", *command]

    def check(self) -> None:
        """Check that no host was looked up, and no file created except temporary ones and those in `out`."""
        traced = Traced.read(self.folder / "trace")
        assert any(map(READS_MODEL.search, traced.lines)), "the trace does not show that a model was read"
        allowed = ("/dev/", str(self.folder / "tmp"), str(self.folder / "out"))
        assert {path for path in traced.created if not path.startswith(allowed)} == set()
        assert {(host, port) for host, port in traced.addresses if host not in ("127.0.0.1", "::1")} == set()
        assert list((self.folder / "home").iterdir()) == []


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    for name in ("home", "tmp", "out"):
        (tmp_path / name).mkdir()
    shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "models" / "mammogram" / "1")
    tried = subprocess.run(["strace", "-qq", "-o", "/dev/null", "true"], capture_output=True, text=True, check=False)
    if "PTRACE" in tried.stderr or "ptrace" in tried.stderr:
        pytest.skip(f"processes cannot be traced here: {tried.stderr.strip()}")
    assert tried.returncode == 0, tried.stderr
    return Sandbox(tmp_path)


@pytest.mark.parametrize("command", [["doctor"], ["verify", "models/mammogram"]], ids=" ".join)
def test_a_command_opens_no_network_connection(command: list[str], sandbox: Sandbox) -> None:
    traced = sandbox.traced("service", *command)
    subprocess.run(traced, cwd=ROOT, env=sandbox.environment, capture_output=True, check=True, timeout=120)
    sandbox.check()


def test_a_server_opens_no_network_connection_and_listens_on_its_port_only(sandbox: Sandbox) -> None:
    environment = {**sandbox.environment, "DEEPSERVE_WORKERS": "2"}
    port = int(environment["DEEPSERVE_PORT"])
    log = sandbox.folder / "log"
    with log.open("w") as output:
        strace = subprocess.Popen(
            sandbox.traced("service"), cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            wait_for_server(f"http://127.0.0.1:{port}", strace, log, ready=True, seconds=120)
            processes = psutil.Process(strace.pid).children(recursive=True)
            listening = {each.laddr.port for one in processes for each in one.net_connections("tcp") if not each.raddr}
        finally:
            for server in psutil.Process(strace.pid).children():
                server.terminate()
            strace.wait(60)
    assert len(processes) == 3
    assert listening == {port}
    sandbox.check()
    assert list((sandbox.folder / "tmp").iterdir()) == []


def test_training_opens_no_network_connection(sandbox: Sandbox) -> None:
    options = ["--smoke", "--device", "cpu", "--epochs", "2", "--folds", "2", "--repeats", "1"]
    traced = sandbox.traced(
        "training", "train", "mammogram", *options, "--out", str(sandbox.folder / "out" / "mammogram" / "1")
    )
    data = MAMMOGRAPHIC_MASSES.fetch("mammographic_masses.data")  # so that training need not download it
    environment = {**sandbox.environment, "DEEPSERVE_DATA_DIR": str(data.parent.parent)}
    subprocess.run(traced, cwd=ROOT, env=environment, capture_output=True, check=True, timeout=300)
    sandbox.check()


def test_variables_of_the_operator_are_kept() -> None:
    program = "import os, service.engine.onnx.runtime; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    for value in ("true", "1"):
        environment = {**clean_environment(), "ORT_DISABLE_TELEMETRY": value}
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == (f"{value}\n", "")
