"""Hosts and environments that a start meets: it serves, or it ends with 1 and one line that names what is wrong; and
`doctor` says so before.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import httpx
import pytest

from load_tests.processes import free_ports
from service.commands.startup import MIN_ADDRESS_SPACE, MIN_OPEN_FILES
from tests.live.conftest import clean_environment
from tests.paths import MODELS, ROOT

READ_ONLY = "mount -t tmpfs -o ro none"


@dataclass(frozen=True)
class Host:
    """Where and how a command runs."""

    variables: Mapping[str, str | None] = field(default_factory=dict)
    """Environment variables; None removes one. `{tmp}` is a directory of the test."""
    shell: str = ""
    """Shell commands that run before. Their mounts are private."""

    @contextmanager
    def running(self, tmp: Path, *arguments: str, port: int | None = None) -> Iterator["subprocess.Popen[str]"]:
        """Run `python -m service` until the end of the block, with pipes for its output and errors."""
        environment = {
            **clean_environment(),
            "DEEPSERVE_MODELS_DIR": str(tmp / "models"),
            "DEEPSERVE_PORT": str(port or free_ports(1)[0]),
        }
        for name, value in self.variables.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value.replace("{tmp}", str(tmp))
        command = [sys.executable, "-m", "service", *arguments]
        if self.shell:
            apart = mount_namespace() if "mount" in self.shell else []
            command = [*apart, "sh", "-c", f'{self.shell.replace("{tmp}", str(tmp))}; exec "$@"', "sh", *command]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, tmp: Path, *arguments: str, port: int | None = None) -> tuple[int, str, str]:
        """Run `python -m service`. Return its exit status, its output and its errors."""
        with self.running(tmp, *arguments, port=port) as process:
            output, errors = process.communicate(timeout=60)
            return process.returncode, output, errors


@cache
def mount_namespace() -> list[str]:
    """Return the command that runs another one in a private mount namespace."""
    command = ["unshare", "--map-root-user", "--mount"]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.strip()}")
    return command


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """Return a directory with one model."""
    shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "models" / "mammogram" / "1")
    return tmp_path


REFUSED = {
    "a host without an address": (Host({"DEEPSERVE_HOST": "no-such-host.invalid"}), "DEEPSERVE_HOST: "),
    "an empty host": (Host({"DEEPSERVE_HOST": ""}), "DEEPSERVE_HOST is empty"),
    "a host that is no name": (Host({"DEEPSERVE_HOST": "a" * 70}), "DEEPSERVE_HOST: "),
    "an address of another machine": (Host({"DEEPSERVE_HOST": "192.0.2.1"}), "DEEPSERVE_HOST and DEEPSERVE_PORT: "),
    "no TMPDIR": (Host({"TMPDIR": "/nowhere"}), "TMPDIR: /nowhere: No such file or directory"),
    "a TMPDIR that is a file": (Host({"TMPDIR": "/etc/hosts"}), "TMPDIR: /etc/hosts: Not a directory"),
    "a read-only TMPDIR": (
        Host({"TMPDIR": "{tmp}/read-only"}, "mkdir -p {tmp}/read-only; " + READ_ONLY + " {tmp}/read-only"),
        "TMPDIR: {tmp}/read-only: Read-only file system",
    ),
    "a full TMPDIR": (
        Host({"TMPDIR": "{tmp}/full"}, "mkdir -p {tmp}/full; mount -t tmpfs -o size=1m none {tmp}/full"),
        "TMPDIR: {tmp}/full: No space left on device",
    ),
    "nothing to write to": (
        Host({"TMPDIR": None, "DEEPSERVE_MODELS_DIR": str(MODELS)}, f"{READ_ONLY} /tmp; {READ_ONLY} /var/tmp"),
        "TMPDIR: /tmp: ",
    ),
    "a TMPDIR with a dollar": (Host({"TMPDIR": "{tmp}/$HOME"}), "TMPDIR: {tmp}/$HOME: the name contains a $"),
    "a working directory that is gone": (
        Host({"PYTHONPATH": str(ROOT)}, "mkdir -p {tmp}/gone; cd {tmp}/gone; rmdir {tmp}/gone"),
        "the working directory: No such file or directory",
    ),
    "few files": (Host(shell=f"ulimit -n {MIN_OPEN_FILES - 1}"), f"ulimit -n: {MIN_OPEN_FILES - 1} open files"),
    "little memory": (Host(shell="ulimit -v 300000"), "ulimit -v: 300000 KiB are too few"),
    "models that are a file": (Host({"DEEPSERVE_MODELS_DIR": "/etc/hosts"}), "DEEPSERVE_MODELS_DIR: "),
    "models in a path that is not UTF-8": (
        Host({"DEEPSERVE_MODELS_DIR": os.fsdecode(b"{tmp}/m\xff")}, 'cp -rn {tmp}/models "$DEEPSERVE_MODELS_DIR"'),
        "DEEPSERVE_MODELS_DIR: {tmp}/m\\udcff: its name is not UTF-8",
    ),
    "a protocol of traces that is not spoken": (
        Host({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
        "OTEL_EXPORTER_OTLP_PROTOCOL: ",
    ),
}
"""By reason, a host on which the start fails, and the beginning of its message."""


@pytest.mark.parametrize("reason", REFUSED)
def test_serve_and_doctor_say_in_one_line_why_a_start_fails(reason: str, tmp: Path) -> None:
    host, message = REFUSED[reason]
    [port] = free_ports(1)
    status, output, errors = host.run(tmp, port=port)
    assert (status, output) == (1, "")
    assert errors.startswith(f"deepserve: {message.replace('{tmp}', str(tmp))}")
    assert errors.count("\n") == 1
    status, report, errors_of_doctor = host.run(tmp, "doctor", port=port)
    assert (status, errors_of_doctor) == (1, "")
    first = next(line for line in report.splitlines() if line.startswith("  FAIL"))
    assert errors.removeprefix("deepserve: ").strip() in first


def test_serve_and_doctor_report_a_port_in_use(tmp: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = f"DEEPSERVE_HOST and DEEPSERVE_PORT: 127.0.0.1:{port}: Address already in use"
        assert Host().run(tmp, port=port) == (1, "", f"deepserve: {message}\n")
        status, report, _ = Host().run(tmp, "doctor", port=port)
    assert status == 1
    assert message in report
    assert "mammogram 1  CPUExecutionProvider" in report  # a server may run here already


HARSH = Host(
    {
        "DEEPSERVE_HOST": "localhost",
        "DEEPSERVE_MODELS_DIR": "{tmp}/die Modelle für hier",
        "TMPDIR": "{tmp}/für alles andere",
        "HOME": None,
        "LANG": None,
        "LC_ALL": "C",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONUTF8": "0",
        "PYTHONOPTIMIZE": "2",
        "PYTHONWARNINGS": "error",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "PYTHONPATH": str(ROOT),
    },
    f"""cd {{tmp}} && mkdir -p 'für alles andere' && ln -sfn models 'die Modelle für hier' && {READ_ONLY} /dev/shm
    cd {ROOT} && ulimit -n {MIN_OPEN_FILES} && ulimit -v {2 * MIN_ADDRESS_SPACE >> 10}
    exec <&- """,
)
"""The most restrictive host on which a start succeeds."""


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (HARSH, "localhost"),
        (Host({"DEEPSERVE_HOST": "::1", "DEEPSERVE_WORKERS": "2", "HOME": "/proc"}, "exec >&- 2>&-"), "[::1]"),
    ],
    ids=["harsh", "IPv6"],
)
def test_a_server_starts_wherever_doctor_succeeds(host: Host, address: str, tmp: Path) -> None:
    if address == "[::1]" and not has_ipv6():
        pytest.skip("this machine has no IPv6")
    [port] = free_ports(1)
    with host.running(tmp, port=port) as start:
        ready = until_ready(f"http://{address}:{port}", start)
        start.terminate()
        output, errors = start.communicate(timeout=60)
    assert (ready, start.returncode, errors) == (True, 0, ""), output + errors
    assert "Traceback" not in output
    status, report, errors = host.run(tmp, "doctor")
    assert (status, errors) == (0, "")
    assert not report or report.endswith("The server would start and be ready.\n")


def has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


def until_ready(url: str, process: "subprocess.Popen[str]") -> bool:
    """Wait until the server is ready; return whether it is."""
    end = time.monotonic() + 60
    while time.monotonic() < end and process.poll() is None:
        with suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz", timeout=10).is_success:
                return True
        time.sleep(0.1)
    return False
