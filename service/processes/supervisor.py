"""Start the workers of a server, replace workers that end, and stop all of them on a signal.

| signal | effect |
| --- | --- |
| SIGTERM, SIGINT | stop: each worker drains, completes its requests and exits |
| a second one | end the drain |
| a third one, or `stop_seconds` after the first | kill the workers |
| SIGHUP | reload: start a new worker in place of each, and stop the old one when the new one serves |

BentoML's own supervisor, circus, ignores SIGTERM while it reloads or starts a worker, leaves workers and the port
behind when it is killed, restarts for ever a worker that cannot start, and looks up the name of the host. It also runs
any program for any local process that connects to its port on 127.0.0.1.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from socket import socket

from service.errors import StartupError
from service.processes.worker import STARTED, SUPERVISOR

logger = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0
"""Seconds before the next attempt to start a worker that failed to start; each failure doubles them."""


@dataclass(eq=False)
class _Worker:
    """A worker process."""

    process: asyncio.subprocess.Process
    started: asyncio.Task[bool]
    """True when the worker serves; False if it ended before that."""
    retired: bool = False
    """Whether a reload has replaced this worker."""

    @property
    def serves(self) -> bool:
        return self.started.done() and self.started.result() and self.process.returncode is None

    def send(self, number: signal.Signals) -> None:
        # `process.send_signal` would reap a process that has ended, and asyncio would miss its exit status.
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.process.pid, number)

    async def wait(self) -> str:
        """Wait until the process ends, and return a message that says how."""
        status, served = await self.process.wait(), await self.started
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
        return f"worker {self.process.pid} {how}{'' if served else ' before it could serve'}"


class Supervisor:
    """Keeps workers running that accept connections on one listening socket."""

    def __init__(self, command: Sequence[str], listener: socket, workers: int, stop_seconds: float) -> None:
        """Prepare to run `command` in `workers` processes.

        Args:
            command: a program that calls `end_with_supervisor` and `notify_started`, and its arguments.
            listener: inherited by the workers under the same file descriptor.
            workers: number of processes.
            stop_seconds: time from the first SIGTERM until the remaining workers are killed.
        """
        self._command = command
        self._listener = listener
        self._count = workers
        self._stop_seconds = stop_seconds
        self._workers: set[_Worker] = set()
        self._stop_signals = 0
        self._reloading: asyncio.Task[None] | None = None
        self._failure: str | None = None

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT. Call it in the main thread: workers end with the thread that starts them.

        Raises:
            StartupError: a worker cannot start, and no other worker serves.
        """
        asyncio.run(self._run())
        if self._failure is not None:
            raise StartupError(self._failure)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        actions = {signal.SIGTERM: self._stop, signal.SIGINT: self._stop, signal.SIGHUP: self._reload}
        async with asyncio.TaskGroup() as self._tasks:
            for number in actions:
                # With `loop.add_signal_handler`, a signal after the end of the loop would kill this process.
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(actions[signal.Signals(number)]))
            for _ in range(self._count):
                self._tasks.create_task(self._keep_running())
        for number in actions:
            signal.signal(number, signal.SIG_IGN)

    async def _keep_running(self, worker: _Worker | None = None) -> None:
        """Start a worker, or use the given one, and start another whenever it ends, until the server stops."""
        pause = _FIRST_PAUSE
        while worker is not None or not self._stopping.is_set():
            try:
                worker = worker or await self._start()
            except OSError as error:
                served, ended = False, f"a worker cannot be started: {error.strerror}"
            else:
                ended = await worker.wait()
                served = worker.started.result()
                self._workers.discard(worker)
                if worker.retired:
                    return
                worker = None
            if self._stopping.is_set():
                return
            if not served and not any(other.serves for other in self._workers):
                self._failure = ended
                self._stop()
                return
            logger.error(ended)
            if served:
                pause = _FIRST_PAUSE
                continue
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _start(self) -> _Worker:
        """Start a worker process.

        Raises:
            OSError: the system does not allow another process or file.
        """
        reading, writing = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                env={**os.environ, SUPERVISOR: str(os.getpid()), STARTED: str(writing)},
                pass_fds=(self._listener.fileno(), writing),
                start_new_session=True,  # Ctrl+C is for the supervisor alone
            )
        except OSError:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        worker = _Worker(process, self._tasks.create_task(_read_byte(reading)))
        self._workers.add(worker)
        if self._stopping.is_set():  # while it was being started
            worker.send(signal.SIGTERM)
        return worker

    def _stop(self) -> None:
        """Stop the workers; each further call makes them stop sooner."""
        self._stop_signals += 1
        if not self._stopping.is_set():
            self._stopping.set()
            asyncio.get_running_loop().call_later(self._stop_seconds, self._kill)
        for worker in self._workers:
            worker.send(signal.SIGTERM)
        if self._stop_signals > 2:
            self._kill()

    def _kill(self) -> None:
        for worker in self._workers:
            logger.error("worker %d has not stopped in time: killing it", worker.process.pid)
            worker.send(signal.SIGKILL)

    def _reload(self) -> None:
        """Start to replace the workers, unless a reload is in progress or the server stops."""
        if not self._stopping.is_set() and (self._reloading is None or self._reloading.done()):
            self._reloading = self._tasks.create_task(self._replace_workers())

    async def _replace_workers(self) -> None:
        """Replace each worker with a new one; keep the remaining workers if a new one does not start."""
        for old in [worker for worker in self._workers if not worker.retired]:
            try:
                new = await self._start()
            except OSError as error:
                logger.error("reload failed, the old workers keep serving: %s", error.strerror)  # noqa: TRY400  # one line
                return
            if not await new.started:
                ended = await new.wait()
                self._workers.discard(new)
                if not self._stopping.is_set():
                    logger.error("reload failed, the old workers keep serving: %s", ended)
                return
            self._tasks.create_task(self._keep_running(new))
            old.retired = True
            old.send(signal.SIGTERM)


async def _read_byte(pipe: int) -> bool:
    """Return whether a byte arrives before the other end of the pipe is closed."""
    reader = asyncio.StreamReader()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(pipe, "rb", buffering=0)
    )
    try:
        return bool(await reader.read(1))
    finally:
        transport.close()
