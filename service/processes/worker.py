"""`python -m service.processes.worker`: a process that serves, started by the supervisor.

Its command line is that of BentoML's worker. The supervisor passes two facts in the environment: its own process id,
and a pipe to which the worker writes one byte when it serves.
"""

import ctypes
import os
import signal
import sys

SUPERVISOR = "_DEEPSERVE_SUPERVISOR"
"""The environment variable with the process id of the supervisor."""
STARTED = "_DEEPSERVE_STARTED"
"""The environment variable with the file descriptor of the pipe."""

_PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>


def main() -> None:
    """Run BentoML's worker, which imports and serves `service.bento`."""
    end_with_supervisor()
    from _bentoml_impl.worker.service import main as run_bentoml_worker

    run_bentoml_worker()


def end_with_supervisor() -> None:
    """Have the kernel kill this process when its parent process ends in any way. Linux only, see prctl(2).

    Otherwise a worker would outlive a killed supervisor and keep the port.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is not None and os.getppid() != int(supervisor):  # the supervisor ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def notify_started() -> None:
    """Notify the supervisor, if there is one, that this worker serves."""
    if (pipe := os.environ.pop(STARTED, None)) is not None:
        os.write(int(pipe), b".")
        os.close(int(pipe))


if __name__ == "__main__":
    main()
