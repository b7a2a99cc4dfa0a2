"""What is promised of a GPU is tried on each device that works: on the CPU in any case, by the same tests.

Where CUDA does not work its part is skipped, with the reason; with `--gpu`, as of `make test-gpu`, it fails.
"""

from collections.abc import Callable, Iterator

import pytest

from service.engine.onnx import cuda as gpu
from service.engine.session import Runtime

RUNTIMES = {
    "cpu": Runtime("cpu", "float32"),
    "cuda": Runtime("cuda"),
    "cuda-graphs": Runtime("cuda", cuda_graphs=True),
}

_TOLD = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--gpu", action="store_true", help="fail where CUDA does not work, and do not skip")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_TOLD] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if told := config.stash[_TOLD]:
        terminalreporter.section("what was found")
        terminalreporter.write("".join(f"{line}\n" for line in told))


@pytest.fixture(scope="session", params=RUNTIMES)
def runtime(request: pytest.FixtureRequest) -> Runtime:
    """Each way to run a model that works here."""
    found = RUNTIMES[request.param]
    if found.device == "cuda":
        require_cuda(request.config)
    return found


@pytest.fixture(scope="session")
def cuda(request: pytest.FixtureRequest) -> Runtime:
    """For what there is on a GPU alone."""
    require_cuda(request.config)
    return RUNTIMES["cuda"]


@pytest.fixture
def tell(request: pytest.FixtureRequest) -> Iterator[Callable[[str], None]]:
    """Has a line printed at the end of the run."""
    return request.config.stash[_TOLD].append


def require_cuda(config: pytest.Config) -> None:
    """Ends the test if CUDA does not work."""
    if (trouble := gpu.unavailable_reason("cuda")) is not None:
        message = f"cuda does not work: {trouble}"
        pytest.fail(message, pytrace=False) if config.getoption("--gpu", default=False) else pytest.skip(message)
