"""What a worker serves while the files of its models come, change and go."""

import os
import resource
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from service.api.v2 import metadata
from service.errors import LoadFailed, NotFound, ServiceError, Unavailable
from service.observability.exposition import TEXT, exposition
from service.registry import reconciler as control
from service.registry.card import Card
from service.registry.readiness import Readiness
from service.registry.reconciler import Reconciler
from service.registry.registry import ModelRegistry
from service.registry.repository import State
from service.registry.workers import Workers
from service.settings import Settings
from service.tasks.digits import DigitsTask
from service.tasks.mammogram import MammogramTask
from service.version_policy import VersionPolicy
from tests.places import MODELS

pytestmark = pytest.mark.anyio

Log = pytest.LogCaptureFixture


class Worker:
    """The only worker of a server, in this process. It looks for changed files many times a second."""

    def __init__(self, root: Path, folder: Path, *, watch: float = 0.02, strict: bool = False, **settings: Any) -> None:
        chosen = Settings(models_dir=root, **settings)
        self.models = ModelRegistry(chosen, {"digits": DigitsTask, "mammogram": MammogramTask})
        self.workers = Workers(folder)
        self.control = Reconciler(self.models, self.workers, watch, strict=strict)
        self.readiness = Readiness(self.workers, 1)

    @property
    def index(self) -> dict[str, tuple[str, str]]:
        """State and reason by model and version."""
        index = metadata.index(self.models.repository, only_ready=False)
        return {f"{each.name} {each.version}": (each.state, each.reason) for each in index}

    @property
    def not_ready(self) -> str:
        """Why the server is not ready; empty if it is."""
        try:
            self.readiness.check()
        except Unavailable as error:
            return error.detail
        return ""

    def answers(self, name: str, number: str | None = None) -> bool:
        """Whether requests for a version are answered."""
        try:
            self.models.find(name, number)
        except ServiceError:
            return False
        return True


@asynccontextmanager
async def working(worker: Worker) -> AsyncIterator[Worker]:
    """The worker while it follows what is wanted."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(worker.control.follow)
        yield worker
        tasks.cancel_scope.cancel()
    worker.control.close()


async def until(holds: Callable[[], object]) -> None:
    with anyio.fail_after(20):
        while not holds():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def some_looks() -> None:
    await anyio.sleep(0.3)


def metric(name: str, version: str = 'model="digits",version="1"') -> str | None:
    text = exposition(TEXT)[0].decode()
    return next((line.split()[-1] for line in text.splitlines() if line.startswith(f"{name}{{{version}}}")), None)


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "LOOK", 0.01)
    monkeypatch.setattr(control, "REREAD", 0.05)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A models folder with the perceptron that reads digits, and mammogram."""
    shutil.copytree(MODELS / "digits" / "1", tmp_path / "models" / "digits" / "1")
    shutil.copytree(MODELS / "mammogram", tmp_path / "models" / "mammogram")
    return tmp_path / "models"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What the workers of a server share."""
    (tmp_path / "workers").mkdir()
    return tmp_path / "workers"


def add(root: Path, number: str) -> Path:
    """Another version of digits, put into place in one step."""
    shutil.copytree(MODELS / "digits" / "1", root.parent / number)
    Card.read(root.parent / number).model_copy(update={"version": number}).write(root.parent / number)
    return (root.parent / number).rename(root / "digits" / number)


@contextmanager
def away(place: Path, put_instead: Callable[[Path], object] = lambda _place: None) -> Iterator[None]:
    """Moves a file or folder away, for a moment, and puts something else there."""
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
async def test_what_is_loaded_serves_on_when_its_files_are_missing(
    root: Path, folder: Path, place: str, instead: Callable[[Path], object], caplog: Log
) -> None:
    async with working(Worker(root, folder)) as worker:
        session = worker.models.find("digits", "1").version.session
        with away(root / place, instead):
            await until(lambda: metric("deepserve_model_files_missing") == "1.0")
            await some_looks()
            state, reason = worker.index["digits 1"]
            assert (state, worker.not_ready) == ("READY", "")
            assert "missing" in reason
            assert str(root) not in reason
            assert worker.models.find("digits", None).version.session is session
            assert worker.answers("mammogram")
            told = [line for line in caplog.messages if line.startswith("model digits: the files of version 1 are mis")]
            assert len(told) == 1, "once"
        await until(lambda: metric("deepserve_model_files_missing") == "0.0")
        assert worker.index["digits 1"] == ("READY", "")
        assert worker.models.find("digits", None).version.session is session
        assert [line for line in caplog.messages if "back" in line and "digits" in line] == [
            "model digits: the files of version 1 are back"
        ]


async def test_all_that_one_look_finds_missing_is_not_yet_missing(
    root: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: Log
) -> None:
    scandir, looks = os.scandir, 0

    def fail_each_second_time(place: Path) -> Any:
        nonlocal looks
        looks += place == root
        if place == root and looks % 2:
            raise OSError(116, "Stale file handle")
        return scandir(place)

    async with working(Worker(root, folder)) as worker:
        monkeypatch.setattr(os, "scandir", fail_each_second_time)
        await until(lambda: looks > 8)
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
            assert (worker.answers("digits"), worker.not_ready) == (True, "")
        await until(lambda: worker.index["digits 1"] == ("READY", ""))


async def test_a_worker_that_starts_again_without_the_files_says_so_and_loads_them_later(
    root: Path, folder: Path, caplog: Log
) -> None:
    async with working(Worker(root, folder)):
        await some_looks()
    with away(root):
        async with working(Worker(root, folder)) as worker:
            await some_looks()
            assert worker.index["digits 1"][0] == State.UNAVAILABLE
            assert "its files are missing (the models folder: No such file" in worker.index["digits 1"][1]
            assert "digits (its files are missing), mammogram (its files are missing)" in worker.not_ready
            assert metric("deepserve_model_ready") == "0.0"
            told = [line for line in caplog.messages if line.startswith("model digits version 1 is unavailable: its")]
            assert len(told) == 1, "once"
    async with working(Worker(root, folder)) as worker:
        await until(lambda: not worker.not_ready)
        assert worker.index["digits 1"] == ("READY", "")


async def test_what_a_worker_could_not_read_is_tried_again_without_a_watch_too(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder, watch=0)):
        pass
    with away(root / "digits"):
        worker = Worker(root, folder, watch=0)
        assert not worker.answers("digits")
    async with working(worker):
        await until(lambda: worker.answers("digits") and not worker.not_ready)


async def test_models_whose_folders_cannot_be_read_at_the_start_are_missed(root: Path, folder: Path) -> None:
    with away(root / "digits", a_link_to_nothing):
        async with working(Worker(root, folder)) as worker:
            assert "digits (its files are missing)" in worker.not_ready
            assert worker.index["digits "] == ("UNAVAILABLE", "its files are missing")
            assert worker.answers("mammogram")
    async with working(Worker(root, folder)) as worker:
        await until(lambda: worker.answers("digits") and not worker.not_ready)


async def test_a_root_that_is_mounted_after_the_start_is_loaded(root: Path, folder: Path) -> None:
    with away(root, Path.mkdir):
        worker = Worker(root, folder)
        assert "Not every model is ready" in worker.not_ready
    async with working(worker):
        await until(lambda: not worker.not_ready)
        assert worker.answers("digits")
        assert worker.answers("mammogram")


async def test_an_unload_takes_out_what_has_no_files(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        shutil.rmtree(root / "digits")
        await until(lambda: metric("deepserve_model_files_missing") == "1.0")
        with pytest.raises(LoadFailed, match="its files are missing"):
            await worker.control.load("digits")
        assert worker.answers("digits")
        await worker.control.unload("digits")
        assert not worker.answers("digits")
        await until(lambda: "digits 1" not in worker.index)
        assert worker.not_ready == ""
        assert metric("deepserve_model_files_missing") is None
        with pytest.raises(NotFound):
            await worker.control.load("digits")


async def test_an_unloaded_model_stays_unloaded_when_its_files_are_back(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        await worker.control.unload("digits")
        with away(root / "digits"):
            await until(lambda: "digits 1" not in worker.index)
        await until(lambda: "digits 1" in worker.index)
        await some_looks()
        assert worker.index["digits 1"] == ("UNAVAILABLE", "unloaded")
        assert worker.not_ready == ""


async def test_a_process_without_file_descriptors_does_not_take_its_files_for_missing(
    root: Path, folder: Path, caplog: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "RETRY", 0.02)
    worker = Worker(root, folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with working(worker):
        await some_looks()
        taken = [os.open(os.devnull, os.O_RDONLY)]
        resource.setrlimit(resource.RLIMIT_NOFILE, (taken[0] + 2, hard))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(taken[0]))
            await some_looks()
            assert worker.answers("digits")
        finally:
            for each in taken:
                os.close(each)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await some_looks()
        assert worker.index["digits 1"] == ("READY", "")
    assert not [line for line in caplog.messages if "missing" in line]
    assert len([line for line in caplog.messages if "not yet as they are wanted" in line]) == 1, "once"


async def test_a_worker_that_starts_again_with_other_files_says_so(root: Path, folder: Path, caplog: Log) -> None:
    Worker(root, folder, watch=0).control.close()
    Card.read(root / "digits" / "1").model_copy(update={"title": "Retrained"}).write(root / "digits" / "1")
    Worker(root, folder, watch=0).control.close()
    assert [line for line in caplog.messages if "asked for" in line] == [
        "model digits version 1: its files are not those that were asked for"
    ]


async def test_a_load_takes_out_versions_without_a_folder(root: Path, folder: Path) -> None:
    add(root, "2")
    async with working(Worker(root, folder)) as worker:
        shutil.rmtree(root / "digits" / "2")
        await until(lambda: "missing" in worker.index["digits 2"][1])
        assert worker.answers("digits", "2")
        await worker.control.load("digits")
        assert not worker.answers("digits", "2")
        await some_looks()
        assert [version for version in worker.index if version.startswith("digits")] == ["digits 1"]


async def test_newer_versions_take_the_place_of_those_without_files(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        with away(root / "digits" / "1"):
            await until(lambda: "missing" in worker.index["digits 1"][1])
            add(root, "2")
            await until(lambda: worker.answers("digits", "2"))
            assert worker.answers("digits", "1")
            add(root, "3")
            await until(lambda: worker.answers("digits", "3"))
            assert not worker.answers("digits", "1")


async def test_a_policy_that_asks_for_a_failing_version_alone_leaves_what_serves(root: Path, folder: Path) -> None:
    async with working(Worker(root, folder)) as worker:
        shutil.rmtree(root / "digits" / "1")
        (root / "digits" / "2").mkdir()
        for policy in (VersionPolicy.parse([2]), None):
            with pytest.raises(LoadFailed):
                await worker.control.load("digits", policy)
            assert worker.answers("digits", "1")
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
        await some_looks()
        assert worker.not_ready == ""
    async with working(Worker(root, folder)) as worker:  # of a server that goes on
        assert worker.not_ready == ""


@pytest.mark.parametrize("add_folder", STRANGE)
async def test_with_strict_readiness_they_do(root: Path, folder: Path, add_folder: Callable[[Path], None]) -> None:
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
async def test_at_the_start_they_keep_a_server_from_being_ready(
    root: Path, folder: Path, add_folder: Callable[[Path], None]
) -> None:
    add_folder(root)
    async with working(Worker(root, folder)) as worker:
        assert "Not every model is ready" in worker.not_ready
    async with working(Worker(root, folder)) as worker:
        assert "Not every model is ready" in worker.not_ready, "starting again is no remedy"
        [name] = {version.split()[0] for version in worker.index} - {"digits", "mammogram"}
        remove(root / name)
        await until(lambda: not worker.not_ready)


async def test_a_model_that_came_later_is_missed_once_it_has_served(root: Path, folder: Path) -> None:
    with away(root / "mammogram"):
        async with working(Worker(root, folder)) as worker:
            assert (worker.not_ready, worker.answers("mammogram")) == ("", False)
    async with working(Worker(root, folder)) as worker:
        await until(lambda: worker.answers("mammogram"))
    with away(root / "mammogram"):
        async with working(Worker(root, folder)) as worker:
            await some_looks()
            assert "mammogram (its files are missing)" in worker.not_ready


def touch_everything(root: Path) -> None:
    for path in root.rglob("*"):
        path.touch()


async def test_touch_reloads_nothing_and_a_retrained_version_is_a_warning(
    root: Path, folder: Path, caplog: Log
) -> None:
    async with working(Worker(root, folder)) as worker:
        before = worker.models.repository.version("digits", "1"), worker.workers.wanted()
        touch_everything(root)
        await some_looks()
        assert (worker.models.repository.version("digits", "1"), worker.workers.wanted()) == before
        card = Card.read(root / "digits" / "1").model_copy(update={"title": "Retrained"})
        card.write(root / "digits" / "1")
        await until(lambda: worker.models.find("digits", None).version.card == card)
        assert len([line for line in caplog.messages if "replaced under the same number" in line]) == 1


@pytest.mark.parametrize(
    ("file", "content"), [("card.json", b"{"), ("model.int8.onnx", b""), ("golden.npz", b"PK"), ("golden.npz", None)]
)
async def test_files_that_get_worse_are_told_and_what_is_loaded_serves_on(
    root: Path, folder: Path, file: str, content: bytes | None
) -> None:
    place = root / "digits" / "1" / file
    before = place.read_bytes()
    async with working(Worker(root, folder)) as worker:
        session = worker.models.find("digits", "1").version.session
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
        assert worker.models.find("digits", "1").version.session is session, "it is what was loaded"


def put_behind_a_link(root: Path) -> None:
    root.rename(root.parent / "release-1")
    root.symlink_to("release-1")


def lead_to_another_release(root: Path) -> None:
    release = root.parent / "release-2"
    shutil.copytree(root, release)
    add(release, "2")
    (root.parent / "new").symlink_to("release-2")
    (root.parent / "new").rename(root)


async def test_the_folder_may_be_a_link_that_is_led_to_another_release(root: Path, folder: Path) -> None:
    put_behind_a_link(root)
    async with working(Worker(root, folder)) as worker:
        before = worker.models.find("digits", "1").version.session
        lead_to_another_release(root)
        await until(lambda: worker.answers("digits", "2"))
        assert worker.models.find("digits", "1").version.session is before


async def test_a_thousand_strange_folders_cost_a_look_little(root: Path, folder: Path, caplog: Log) -> None:
    for number in range(1000):
        (root / f"{'x' if number % 2 else 'X'}{number}").mkdir()
    async with working(Worker(root, folder)) as worker:
        assert worker.not_ready == ""
        assert len([line for line in caplog.messages if "ignored" in line]) == 21
