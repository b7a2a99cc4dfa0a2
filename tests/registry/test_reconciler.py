"""What workers have loaded while requests change the desired state, and files come, change and go."""

import os
import resource
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.api.v2 import metadata
from service.errors import LoadFailed, NotFound, ServiceError, Unavailable
from service.inference.binding import bind
from service.observability.exposition import TEXT, exposition
from service.registry import reconciler
from service.registry.card import Card
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import ModelRegistry
from service.registry.versions import State
from service.registry.workers import Workers
from service.settings import Settings
from service.version_policy import VersionPolicy
from tests.paths import MODELS

pytestmark = pytest.mark.anyio

Log = pytest.LogCaptureFixture


class Worker:
    """A worker of a server, in this process. It scans for changed files many times a second."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        *,
        watch: float = 0.02,
        strict: bool = False,
        name: str | None = None,
        count: int = 1,
        **settings: Any,
    ) -> None:
        """Start one of `count` workers that share `folder`; its name is its process id unless it is given."""
        self.models = ModelRegistry(Settings(models_dir=root, **settings), bind)
        self.workers = Workers(folder, name)
        self.reconciler = Reconciler(self.models, self.workers, watch, strict=strict)
        self.readiness = Readiness(self.workers, count)
        self.reconciler.start()

    @property
    def index(self) -> dict[str, tuple[str, str]]:
        """State and reason by model and version."""
        index = metadata.index(self.models.models, only_ready=False)
        return {f"{each.name} {each.version}": (each.state, each.reason) for each in index}

    @property
    def not_ready(self) -> str:
        """Why the server is not ready; empty if it is."""
        try:
            self.readiness.check()
        except Unavailable as error:
            return error.detail
        return ""

    def serves(self, name: str, number: str | None = None) -> bool:
        """Whether requests for a version are answered."""
        try:
            self.models.find(name, number)
        except ServiceError:
            return False
        return True


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """The worker while it follows the desired state."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.reconciler.run)
        yield worker
        tasks.cancel_scope.cancel()
    worker.reconciler.close()


async def until(holds: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def some_polls() -> None:
    await anyio.sleep(0.3)


def metric(name: str, version: str = 'model="digits",version="1"') -> str | None:
    text = exposition(TEXT)[0].decode()
    return next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name}{{{version}}}")), None)


@pytest.fixture(autouse=True)
def _poll_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconciler, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(reconciler, "REREAD_SECONDS", 0.05)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A models folder with the perceptron that reads digits, and mammogram."""
    shutil.copytree(MODELS / "digits" / "1", tmp_path / "models" / "digits" / "1")
    shutil.copytree(MODELS / "mammogram" / "1", tmp_path / "models" / "mammogram" / "1")
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The directory that the workers of a server share."""
    (tmp_path / "workers").mkdir()
    return tmp_path / "workers"


def add(root: Path, number: str) -> Path:
    """Another version of digits, put into place in one step."""
    shutil.copytree(MODELS / "digits" / "1", root.parent / number)
    Card.read(root.parent / number).model_copy(update={"version": number}).write(root.parent / number)
    return (root.parent / number).rename(root / "digits" / number)


@contextmanager
def away(place: Path, put_instead: Callable[[Path], object] = lambda _place: None) -> Iterator[None]:
    """Move a file or folder away for a moment, and put something else there."""
    hidden = place.parent / f".{place.name}"
    place.rename(hidden)
    put_instead(place)
    yield
    if place.is_symlink() or place.is_file():
        place.unlink()
    elif place.is_dir():
        place.rmdir()
    hidden.rename(place)


def a_link_to_nothing(place: Path) -> None:
    place.symlink_to("nowhere")


def a_link_to_itself(place: Path) -> None:
    place.symlink_to(place.name)


def a_file(place: Path) -> None:
    place.write_bytes(b"")


PLACES = {"root": "", "model": "digits", "version": "digits/1"}
FAILURES = (lambda _place: None, Path.mkdir, a_link_to_nothing, a_link_to_itself, a_file)


@pytest.mark.parametrize(
    ("place", "instead"),
    [
        *((place, instead) for place in PLACES.values() for instead in FAILURES),
        *(("digits/1/model.int8.onnx", instead) for instead in (a_link_to_nothing, a_link_to_itself)),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
async def test_a_loaded_version_serves_on_when_its_files_are_missing(
    root: Path, folder: Path, place: str, instead: Callable[[Path], object], caplog: Log
) -> None:
    async with working(Worker(root, folder)) as worker:
        session = worker.models.find("digits", "1").session
        with away(root / place, instead):
            await until(lambda: metric("deepserve_model_files_missing") == "1.0")
            await some_polls()
            state, reason = worker.index["digits 1"]
            assert (state, worker.not_ready) == ("READY", "")
            assert "missing" in reason
            assert str(root) not in reason
            assert worker.models.find("digits", None).session is session
            assert worker.serves("mammogram")
            logged = [
                line for line in caplog.messages if line.startswith("model digits: the files of version 1 are mis")
            ]
            assert len(logged) == 1, "once"
        await until(lambda: metric("deepserve_model_files_missing") == "0.0")
        assert worker.index["digits 1"] == ("READY", "")
        assert worker.models.find("digits", None).session is session
        assert [line for line in caplog.messages if "back" in line and "digits" in line] == [
            "model digits: the files of version 1 are back"
        ]


async def test_files_that_one_scan_cannot_read_are_not_missing_yet(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    scandir, scans = os.scandir, 0

    def fail_every_second_time(place: Path) -> Any:
        nonlocal scans
        scans += place == root
        if place == root and scans % 2:
            raise OSError(116, "Stale file handle")
        return scandir(place)

    async with working(Worker(root, folder)) as worker:
        monkeypatch.setattr(os, "scandir", fail_every_second_time)
        await until(lambda: scans > 8)
        monkeypatch.undo()
    assert worker.index["digits 1"] == ("READY", "")
    assert not [line for line in caplog.messages if "are missing" in line]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), OSError(116, "Stale file handle")], ids=str)
@pytest.mark.parametrize("place", PLACES.values())
async def test_errors_of_file_systems_are_failures_to_read(
    root: Path, folder: Path, place: str, error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def fail(path: Path) -> Any:
        if Path(path) == root / place:
            raise error
        return scandir(path)

    async with working(Worker(root, folder)) as worker:
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", fail)
            patched.setattr(os, "listdir", lambda path: [entry.name for entry in fail(path)])
            await until(lambda: metric("deepserve_model_files_missing") == "1.0")
            assert error.strerror in worker.index["digits 1"][1]
            assert (worker.serves("digits"), worker.not_ready) == (True, "")
        await until(lambda: worker.index["digits 1"] == ("READY", ""))


async def test_a_worker_that_restarts_without_the_files_reports_it_and_loads_them_later(
    root: Path, folder: Path, caplog: Log
) -> None:
    async with working(Worker(root, folder)):
        await some_polls()
    with away(root):
        async with working(Worker(root, folder)) as worker:
            await some_polls()
            assert worker.index["digits 1"][0] == State.UNAVAILABLE
            assert "its files are missing (the models folder: No such file" in worker.index["digits 1"][1]
            assert "digits (its files are missing), mammogram (its files are missing)" in worker.not_ready
            assert metric("deepserve_model_ready") == "0.0"
            logged = [line for line in caplog.messages if line.startswith("model digits version 1 is unavailable: its")]
            assert len(logged) == 1, "once"
    async with working(Worker(root, folder)) as worker:
        await until(lambda: not worker.not_ready)
        assert worker.index["digits 1"] == ("READY", "")


async def test_files_that_could_not_be_read_are_tried_again_even_without_a_watch(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder, watch=0)):
        pass
    with away(root / "digits"):
        worker = Worker(root, folder, watch=0)
        assert not worker.serves("digits")
    async with working(worker):
        await until(lambda: worker.serves("digits") and not worker.not_ready)


async def test_a_model_whose_folder_cannot_be_read_at_start_keeps_the_server_from_being_ready(
    root: Path, folder: Path
) -> None:
    with away(root / "digits", a_link_to_nothing):
        async with working(Worker(root, folder)) as worker:
            assert "digits (its files are missing)" in worker.not_ready
            assert worker.index["digits "] == ("UNAVAILABLE", "its files are missing")
            assert worker.serves("mammogram")
    async with working(Worker(root, folder)) as worker:
        await until(lambda: worker.serves("digits") and not worker.not_ready)


async def test_a_models_folder_that_is_mounted_after_the_start_is_loaded(root: Path, folder: Path) -> None:
    with away(root, Path.mkdir):
        worker = Worker(root, folder)
        assert "Not every model is ready" in worker.not_ready
    async with working(worker):
        await until(lambda: not worker.not_ready)
        assert worker.serves("digits")
        assert worker.serves("mammogram")


async def test_a_version_without_files_can_be_unloaded(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        shutil.rmtree(root / "digits")
        await until(lambda: metric("deepserve_model_files_missing") == "1.0")
        with pytest.raises(LoadFailed, match="its files are missing"):
            await worker.reconciler.load("digits")
        assert worker.serves("digits")
        await worker.reconciler.unload("digits")
        assert not worker.serves("digits")
        await until(lambda: "digits 1" not in worker.index)
        assert worker.not_ready == ""
        assert metric("deepserve_model_files_missing") is None
        with pytest.raises(NotFound):
            await worker.reconciler.load("digits")


async def test_an_unloaded_model_stays_unloaded_when_its_files_are_back(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        await worker.reconciler.unload("digits")
        with away(root / "digits"):
            await until(lambda: "digits 1" not in worker.index)
        await until(lambda: "digits 1" in worker.index)
        await some_polls()
        assert worker.index["digits 1"] == ("UNAVAILABLE", "unloaded")
        assert worker.not_ready == ""


async def test_files_are_not_missing_because_a_process_is_out_of_file_descriptors(
    root: Path, folder: Path, caplog: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "RETRY_SECONDS", 0.02)
    worker = Worker(root, folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with working(worker):
        await some_polls()
        taken = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 2, hard))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(taken[0]))
            await until(lambda: "the models cannot be brought to the desired state yet" in caplog.messages)
            await some_polls()
            assert worker.serves("digits")
        finally:
            for each in taken:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await some_polls()
        assert worker.index["digits 1"] == ("READY", "")
    assert not [line for line in caplog.messages if "missing" in line]
    logged = [line for line in caplog.messages if "cannot be brought to the desired state" in line]
    assert len(logged) <= 3, "once for each task of the reconciler"


async def test_a_worker_that_restarts_with_other_files_logs_it(root: Path, folder: Path, caplog: Log) -> None:
    Worker(root, folder, watch=0).reconciler.close()
    Card.read(root / "digits" / "1").model_copy(update={"title": "Retrained"}).write(root / "digits" / "1")
    Worker(root, folder, watch=0).reconciler.close()
    assert [line for line in caplog.messages if "asked for" in line] == [
        "model digits version 1: its files are not those that were asked for"
    ]


async def test_a_load_removes_versions_without_a_folder(root: Path, folder: Path) -> None:
    add(root, "2")
    async with working(Worker(root, folder)) as worker:
        shutil.rmtree(root / "digits" / "2")
        await until(lambda: "missing" in worker.index["digits 2"][1])
        assert worker.serves("digits", "2")
        await worker.reconciler.load("digits")
        assert not worker.serves("digits", "2")
        await some_polls()
        assert [version for version in worker.index if version.startswith("digits")] == ["digits 1"]


async def test_newer_versions_replace_versions_without_files(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        with away(root / "digits" / "1"):
            await until(lambda: "missing" in worker.index["digits 1"][1])
            add(root, "2")
            await until(lambda: worker.serves("digits", "2"))
            assert worker.serves("digits", "1")
            add(root, "3")
            await until(lambda: worker.serves("digits", "3"))
            assert not worker.serves("digits", "1")


async def test_loaded_versions_stay_if_the_policy_lists_only_a_version_that_fails(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        shutil.rmtree(root / "digits" / "1")
        (root / "digits" / "2").mkdir()
        for policy in (VersionPolicy.parse([2]), None):
            with pytest.raises(LoadFailed):
                await worker.reconciler.load("digits", policy)
            assert worker.serves("digits", "1")
            assert worker.not_ready == ""


def broken(root: Path) -> None:
    shutil.copytree(root / "digits" / "1", root / "broken" / "1")


def half_copied(root: Path) -> None:
    (root / "fashion" / "1").mkdir(parents=True)
    shutil.copy(MODELS / "fashion" / "1" / "card.json", root / "fashion" / "1")


def foreign(root: Path) -> None:
    (root / "backup" / "2026").mkdir(parents=True)
    for name in ("lost+found", ".ipynb_checkpoints", "__pycache__", "tmp", os.fsdecode(b"caf\xe9"), "new\nline"):
        (root / name).mkdir()


def unreadable(root: Path) -> None:
    (root / "private").symlink_to("private")


STRANGE = (broken, half_copied, foreign, unreadable)


@pytest.mark.parametrize("add_folder", STRANGE)
async def test_folders_that_fail_do_not_take_a_ready_server_out_of_rotation(
    root: Path, folder: Path, add_folder: Callable[[Path], None]
) -> None:
    async with working(Worker(root, folder)) as worker:
        assert worker.not_ready == ""
        before = set(worker.index)
        add_folder(root)
        await until(lambda: set(worker.index) - before)
        await some_polls()
        assert worker.not_ready == ""
    async with working(Worker(root, folder)) as worker:  # a worker that starts again
        assert worker.not_ready == ""


@pytest.mark.parametrize("add_folder", STRANGE)
async def test_with_strict_readiness_such_folders_do(
    root: Path, folder: Path, add_folder: Callable[[Path], None]
) -> None:
    async with working(Worker(root, folder, strict=True)) as worker:
        assert worker.not_ready == ""
        add_folder(root)
        await until(lambda: worker.not_ready)


def remove(place: Path) -> None:
    if place.is_symlink():
        place.unlink()
    else:
        shutil.rmtree(place)


@pytest.mark.parametrize("add_folder", STRANGE)
async def test_such_folders_at_start_keep_a_server_from_being_ready(
    root: Path, folder: Path, add_folder: Callable[[Path], None]
) -> None:
    add_folder(root)
    async with working(Worker(root, folder)) as worker:
        assert "Not every model is ready" in worker.not_ready
    async with working(Worker(root, folder)) as worker:
        assert "Not every model is ready" in worker.not_ready, "a restart does not help"
        [name] = {version.split()[0] for version in worker.index} - {"digits", "mammogram"}
        remove(root / name)
        await until(lambda: not worker.not_ready)


async def test_a_model_that_came_later_is_needed_once_it_has_been_loaded(root: Path, folder: Path) -> None:
    with away(root / "mammogram"):
        async with working(Worker(root, folder)) as worker:
            assert (worker.not_ready, worker.serves("mammogram")) == ("", False)
    async with working(Worker(root, folder)) as worker:
        await until(lambda: worker.serves("mammogram"))
    with away(root / "mammogram"):
        async with working(Worker(root, folder)) as worker:
            await some_polls()
            assert "mammogram (its files are missing)" in worker.not_ready


def touch_everything(root: Path) -> None:
    for path in root.rglob("*"):
        path.touch()


async def test_touch_reloads_nothing_and_a_retrained_version_is_loaded_with_a_warning(
    root: Path, folder: Path, caplog: Log
) -> None:
    async with working(Worker(root, folder)) as worker:
        before = worker.models.version("digits", "1"), worker.workers.spec()
        touch_everything(root)
        await some_polls()
        assert (worker.models.version("digits", "1"), worker.workers.spec()) == before
        card = Card.read(root / "digits" / "1").model_copy(update={"title": "Retrained"})
        card.write(root / "digits" / "1")
        await until(lambda: worker.models.find("digits", None).card == card)
        assert len([line for line in caplog.messages if "replaced under the same number" in line]) == 1


@pytest.mark.parametrize(
    ("file", "content"), [("card.json", b"{"), ("model.int8.onnx", b""), ("golden.npz", b"PK"), ("golden.npz", None)]
)
async def test_damaged_files_are_reported_and_the_loaded_version_serves_on(
    root: Path, folder: Path, file: str, content: bytes | None
) -> None:
    place = root / "digits" / "1" / file
    before = place.read_bytes()
    async with working(Worker(root, folder)) as worker:
        session = worker.models.find("digits", "1").session
        if content is None:
            place.unlink()
        else:
            place.write_bytes(content)
        await until(lambda: metric("deepserve_model_files_missing") == "1.0")
        assert file in worker.index["digits 1"][1]
        assert worker.not_ready == ""
        place.write_bytes(before)
        await until(lambda: metric("deepserve_model_files_missing") == "0.0")
        assert worker.index["digits 1"] == ("READY", "")
        assert worker.models.find("digits", "1").session is session, "it was not loaded again"


def put_behind_a_link(root: Path) -> None:
    root.rename(root.parent / "release-1")
    root.symlink_to("release-1")


def switch_to_another_release(root: Path) -> None:
    release = root.parent / "release-2"
    shutil.copytree(root, release)
    add(release, "2")
    (root.parent / "new").symlink_to("release-2")
    (root.parent / "new").rename(root)


async def test_the_models_folder_may_be_a_link_that_switches_to_another_release(root: Path, folder: Path) -> None:
    put_behind_a_link(root)
    async with working(Worker(root, folder)) as worker:
        before = worker.models.find("digits", "1").session
        switch_to_another_release(root)
        await until(lambda: worker.serves("digits", "2"))
        assert worker.models.find("digits", "1").session is before


async def test_a_thousand_ignored_folders_are_logged_in_a_few_lines(root: Path, folder: Path, caplog: Log) -> None:
    for number in range(1000):
        (root / f"{'x' if number % 2 else 'X'}{number}").mkdir()
    async with working(Worker(root, folder)) as worker:
        assert worker.not_ready == ""
        assert len([line for line in caplog.messages if "ignored" in line]) == 21


def test_nothing_is_loaded_and_no_file_written_before_the_start(root: Path, folder: Path) -> None:
    registry = ModelRegistry(Settings(models_dir=root), bind)
    Reconciler(registry, Workers(folder), 0)
    assert (registry.models, list(folder.iterdir())) == ({}, [])


@asynccontextmanager
async def two_workers(root: Path, folder: Path, **options: Any) -> AsyncIterator[tuple[Worker, Worker]]:
    """Two workers of a server, in this process."""
    async with AsyncExitStack() as stack:
        names = ("worker-1", "worker-2")
        workers = [Worker(root, folder, name=name, count=2, watch=0, **options) for name in names]
        first, second = [await stack.enter_async_context(working(worker)) for worker in workers]
        yield first, second


async def test_every_worker_makes_a_change_before_it_is_complete(root: Path, folder: Path) -> None:
    add(root, "2")
    async with two_workers(root, folder) as (first, second):
        assert (first.not_ready, second.not_ready) == ("", "")
        await first.reconciler.load("digits", VersionPolicy.parse([1]))
        assert [worker.serves("digits", "2") for worker in (first, second)] == [False, False]
        assert second.reconciler.policy("digits") == VersionPolicy.parse([1])
        await second.reconciler.unload("mammogram")
        assert [worker.serves("mammogram") for worker in (first, second)] == [False, False]
        assert (first.not_ready, second.not_ready) == ("", ""), "an unloaded model is not needed"


async def test_a_load_that_fails_leaves_the_desired_state_as_it_was(root: Path, folder: Path) -> None:
    async with two_workers(root, folder) as (first, second):
        before = first.workers.spec()
        (root / "digits" / "2").mkdir()
        (root / "digits" / "2" / "card.json").write_bytes(b"{}")
        with pytest.raises(LoadFailed, match=r"version 2: card\.json"):
            await first.reconciler.load("digits", VersionPolicy.parse([2]))
        after = first.workers.spec()
        assert after.models["digits"].policy == before.models["digits"].policy
        assert [worker.serves("digits", "1") for worker in (first, second)] == [True, True]
        assert first.workers.statuses()[second.workers.name].failures["digits"].keys() == {"2"}
        await first.reconciler.unload("digits")
        with pytest.raises(LoadFailed):
            await second.reconciler.load("digits", VersionPolicy.parse([2]))
        assert not first.workers.spec().models["digits"].loaded, "it stays unloaded"
        assert (first.not_ready, second.not_ready) == ("", "")


async def test_workers_make_a_change_one_after_the_other(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_workers(root, folder) as (first, second):
        loading: list[str] = []
        overlaps: list[str] = []

        def slow(worker: Worker) -> Callable[..., Any]:
            load = worker.models.load

            def slow_load(*arguments: Any) -> Any:
                overlaps.extend(loading)
                loading.append(worker.workers.name)
                time.sleep(0.2)
                try:
                    return load(*arguments)
                finally:
                    loading.remove(worker.workers.name)

            return slow_load

        for worker in (first, second):
            monkeypatch.setattr(worker.models, "load", slow(worker))
        await second.reconciler.load("digits")
        assert overlaps == []
        generation = first.workers.spec().generation
        assert {status.generation for status in first.workers.statuses().values()} == {generation}


async def test_a_worker_waits_its_turn_only_for_so_long(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconciler, "TURN_SECONDS", 0.3)
    stuck = Worker(root, folder, name="worker-1", count=2)  # alive, and does not follow the desired state
    add(root, "2")
    async with working(Worker(root, folder, name="worker-2", count=2, watch=0)) as worker:
        monkeypatch.setattr(reconciler, "CHANGE_SECONDS", 1.0)
        with pytest.raises(Unavailable, match="Not every worker has made the change"):
            await worker.reconciler.load("digits")
        assert worker.serves("digits", "2")
        assert not stuck.serves("digits", "2")
    stuck.reconciler.close()


async def test_a_worker_that_starts_during_a_rollout_loads_the_desired_state(root: Path, folder: Path) -> None:
    add(root, "2")
    async with working(Worker(root, folder, name="worker-1", count=2, watch=0)) as first:
        await first.reconciler.load("digits", VersionPolicy.parse([1]))
        await first.reconciler.unload("mammogram")
        async with working(Worker(root, folder, name="worker-2", count=2, watch=0)) as second:
            assert second.index == first.index
            assert (first.not_ready, second.not_ready) == ("", "")
