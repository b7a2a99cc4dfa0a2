"""Servers as processes: each pinned to one core, started, waited for, and what its whole tree of processes costs."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import psutil

T = TypeVar("T")

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServerError(Exception):
    """A server did not start, or went away; the message says what is known of it."""


@dataclass(frozen=True)
class Memory:
    """Of a tree of processes, in MB, 1,000,000 bytes each."""

    rss_largest: float
    """Resident memory of the largest process: of a server with one worker, the worker."""
    pss: float
    """Of all processes, what they share counted once."""


@dataclass(frozen=True)
class Process:
    """A running server."""

    root: psutil.Process
    cores: tuple[int, ...]
    """Where it runs."""
    url: str
    seconds_to_ready: float
    """From the start of the command to the first 200."""

    def cpu_seconds(self) -> float:
        """CPU time of the tree so far, that of children which have ended included."""
        return sum(self._of_each(lambda process: sum(process.cpu_times()[:4])))

    def cores_busy_seconds(self) -> float:
        """CPU time that anybody has had on its cores so far, the hypervisor's other guests included."""
        times = psutil.cpu_times(percpu=True)
        return sum(times[core].user + times[core].nice + times[core].system + times[core].steal for core in self.cores)

    def memory(self) -> Memory:
        """Of the tree, now."""
        used = self._of_each(lambda process: process.memory_full_info())
        return Memory(max(one.rss for one in used) / 1e6, sum(one.pss for one in used) / 1e6)

    def suspend(self) -> None:
        """Stops the tree where it is."""
        self._of_each(psutil.Process.suspend)

    def resume(self) -> None:
        """Lets it run again."""
        self._of_each(psutil.Process.resume)

    def _of_each(self, figure: Callable[[psutil.Process], T]) -> list[T]:
        """A figure of each process of the tree; one that ends meanwhile is left out, its parent has its time."""
        if not self.root.is_running():
            raise ServerError("it has ended")
        found = []
        for process in [self.root, *self.root.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                found.append(figure(process))
        return found


def pinned(command: Sequence[str], cores: Sequence[int]) -> list[str]:
    """The command, bound with all its children to these cores."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def running(
    command: Sequence[str],
    *,
    cores: Sequence[int],
    port: int,
    ready: str,
    directory: Path,
    environment: Mapping[str, str],
    log: Path,
) -> Iterator[Process]:
    """The server that `command` starts, from the first 200 at `ready` on; it and its children end with the block.

    Raises:
        ServerError: it ended, or was not ready within `START_SECONDS`.
    """
    url = f"http://127.0.0.1:{port}"
    with log.open("w") as output:
        started = time.perf_counter()
        child = subprocess.Popen(
            pinned(command, cores),
            cwd=directory,
            env=dict(environment),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait_until_ready(child, url + ready, started, log)
        yield Process(psutil.Process(child.pid), tuple(cores), url, time.perf_counter() - started)
    finally:
        _stop(child)


def _wait_until_ready(child: subprocess.Popen[bytes], url: str, started: float, log: Path) -> None:
    while child.poll() is None and time.perf_counter() - started < START_SECONDS:
        try:
            if httpx.get(url, timeout=START_SECONDS).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.02)
    raise ServerError(_reason(log.read_text(errors="replace")) or f"ended with {child.returncode} and wrote nothing")


def _reason(written: str) -> str:
    """The last line about an error, or else the last line."""
    lines = [line.strip() for line in written.splitlines() if line.strip()]
    errors = [line for line in lines if re.search("error|exception", line, re.IGNORECASE)]
    return [*lines[-1:], *errors[-1:]][-1] if lines else ""


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Asks the tree to end; what is left of it after `STOP_SECONDS` is killed."""
    tree = psutil.Process(child.pid).children(recursive=True) if child.poll() is None else []
    for process in tree:
        process.resume()
    child.send_signal(signal.SIGTERM)
    child.send_signal(signal.SIGCONT)
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    _, alive = psutil.wait_procs(tree, timeout=1)
    for process in alive:
        process.kill()
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)  # those whose parent ended before them
