"""`python -m service.processes.worker`: a process that serves, started by the supervisor.

It takes the command line of BentoML's worker. The supervisor tells it two things in the environment: its own process
id, and a pipe that expects one byte once the worker serves.
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
    """Have the kernel kill this process when the process that started it ends, however that ends.

    Otherwise a worker outlives a supervisor that was killed, and keeps the port. Linux only, see prctl(2).
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    supervisor = os.environ.get(SUPERVISOR)
    if supervisor is not None and os.getppid() != int(supervisor):  # it ended before the call above
        os.kill(os.getpid(), signal.SIGKILL)


def tell_started() -> None:
    """Tell the supervisor, if there is one, that this worker serves."""
    if (pipe := os.environ.pop(STARTED, None)) is not None:
        os.write(int(pipe), b".")
        os.close(int(pipe))


if __name__ == "__main__":
    main()
