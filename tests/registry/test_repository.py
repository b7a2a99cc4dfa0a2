"""A version serves only once it has proved itself, and one that fails takes no other down."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.engine.session import Runtime
from service.errors import NotFound, Unavailable
from service.registry.card import Card
from service.registry.models_folder import NO_FILES
from service.registry.repository import Repository, State, Version
from service.registry.verification import VerificationError
from service.version_policy import VersionPolicy
from tests.paths import MODELS

Log = pytest.LogCaptureFixture


def loaded(root: Path, policy: VersionPolicy | None = None) -> Repository:
    """A repository with all that is in `root`."""
    repository = Repository(root, Runtime())
    for name in repository.folder.scan():
        reload(repository, name, policy)
    return repository


def reload(repository: Repository, name: str, policy: VersionPolicy | None = None) -> list[str]:
    """Loads the versions of a model that are there now; says what failed."""
    files = repository.folder.files(name)
    return repository.load(name, [*files.fingerprints, *files.unreadable], policy)


def ready(repository: Repository) -> list[str]:
    """Of digits."""
    return [version.number for version in repository.ready_versions("digits")]


def add(models: Path, *numbers: str) -> None:
    """Further versions of digits."""
    for number in numbers:
        shutil.copytree(models / "digits" / "1", models / "digits" / number)
        Card.read(models / "digits" / number).model_copy(update={"version": number}).write(models / "digits" / number)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two versions of digits: the perceptron, twice."""
    shutil.copytree(MODELS / "digits" / "1", tmp_path / "digits" / "1")
    add(tmp_path, "2")
    return tmp_path


def test_what_is_shipped_is_ready() -> None:
    repository = loaded(MODELS)
    assert repository.models
    versions = [version for versions in repository.models.values() for version in versions.values()]
    assert all(version.state is State.READY for version in versions), [version.reason for version in versions]


def test_the_newest_ready_version_answers(models: Path) -> None:
    add(models, "10", "9")
    repository = loaded(models)
    assert list(repository.versions("digits")) == ["1", "2", "9", "10"]
    assert repository.newest("digits").number == "10"


@pytest.mark.parametrize(
    ("policy", "chosen"),
    [
        (None, ["2", "3"]),
        ("latest 1", ["3"]),
        ("latest 9", ["1", "2", "3"]),
        ("all", ["1", "2", "3"]),
        ([1, 3, 8], ["1", "3"]),
    ],
)
def test_the_policy_chooses_the_versions(models: Path, policy: object, chosen: list[str]) -> None:
    add(models, "3")
    repository = loaded(models, None if policy is None else VersionPolicy.parse(policy))
    assert ready(repository) == chosen
    assert all(version.reason for number, version in repository.versions("digits").items() if number not in chosen)


def test_versions_on_trial_are_loaded_beside_the_latest(models: Path) -> None:
    add(models, "3", "4", "5")
    repository = Repository(models, Runtime(), on_trial={"digits": ["5", "1"]})
    reload(repository, "digits")
    assert ready(repository) == ["1", "3", "4", "5"]
    reload(repository, "digits", VersionPolicy.parse([4]))
    assert ready(repository) == ["4"]


def test_a_policy_is_a_setting_of_each_model(models: Path) -> None:
    repository = Repository(models, Runtime(), {"digits": VersionPolicy.parse("latest 1")})
    reload(repository, "digits")
    assert ready(repository) == ["2"]
    reload(repository, "digits", VersionPolicy.parse([1]))  # for this once
    assert ready(repository) == ["1"]
    reload(repository, "digits")
    assert ready(repository) == ["2"]


def test_behind_a_version_that_fails_the_next_older_is_loaded(models: Path) -> None:
    add(models, "3")
    flip_a_bit(models / "digits" / "3")
    repository = loaded(models, VersionPolicy.parse("latest 1"))
    assert ready(repository) == ["2"]


def test_only_a_version_whose_content_has_changed_is_loaded_again(models: Path, caplog: Log) -> None:
    repository = loaded(models)
    before = repository.version("digits", "1"), repository.version("digits", "2")
    for path in (models / "digits" / "1").iterdir():
        path.touch()
    retrain(models / "digits" / "2")
    assert not reload(repository, "digits")
    assert repository.version("digits", "1") is before[0]
    assert repository.version("digits", "2").session is not before[1].session
    assert [line for line in caplog.messages if "under the same number" in line] == [
        "model digits version 2: its files have been replaced under the same number; "
        "a retrained model should get a new number"
    ]


def test_a_version_whose_files_have_got_worse_serves_as_it_was_loaded(models: Path) -> None:
    repository = loaded(models)
    session = repository.version("digits", "2").session
    flip_a_bit(models / "digits" / "2")
    [failure] = reload(repository, "digits")
    version = repository.version("digits", "2")
    assert (version.state, version.session) == (State.READY, session)
    assert "model.onnx" in failure
    assert version.reason is not None
    assert "model.onnx" in version.reason


def test_if_all_that_is_asked_for_fails_what_serves_goes_on(models: Path) -> None:
    repository = loaded(models)
    add(models, "3")
    flip_a_bit(models / "digits" / "3")
    assert reload(repository, "digits", VersionPolicy.parse([3]))
    assert ready(repository) == ["1", "2"]


def test_a_version_that_cannot_be_made_to_answer_is_unavailable(models: Path) -> None:
    def refuse(version: Version) -> None:
        if version.number == "2":
            raise VerificationError("not this one")

    repository = Repository(models, Runtime(), prepare=refuse)
    assert reload(repository, "digits") == ["version 2: not this one"]
    assert ready(repository) == ["1"]


def test_a_model_that_is_unloaded_is_not_missed_and_can_be_loaded_again(models: Path) -> None:
    repository = loaded(models)
    repository.unload("digits", ["1", "2"])
    assert {version.reason for version in repository.versions("digits").values()} == {"unloaded"}
    with pytest.raises(Unavailable):
        repository.newest("digits")
    reload(repository, "digits")
    assert ready(repository) == ["1", "2"]


def test_a_link_to_nothing_fails_its_own_version_alone(models: Path) -> None:
    add(models, "3")
    (models / "digits" / "3" / "model.onnx").unlink()
    (models / "digits" / "3" / "model.onnx").symlink_to("nowhere")
    repository = Repository(models, Runtime())
    before = repository.folder.scan()
    [failure] = reload(repository, "digits")
    assert failure == "version 3: its files are missing (digits/3/model.onnx: No such file or directory)"
    assert ready(repository) == ["1", "2"]
    (models / "digits" / "3" / "model.onnx").unlink()
    shutil.copy(models / "digits" / "1" / "model.onnx", models / "digits" / "3")
    assert repository.folder.scan() != before
    assert not reload(repository, "digits")
    assert ready(repository) == ["2", "3"]


def test_versions_come_and_go_with_their_folders(models: Path) -> None:
    repository = loaded(models)
    before = repository.folder.scan()
    add(models, "3")
    shutil.rmtree(models / "digits" / "1")
    found = repository.folder.scan()["digits"].fingerprints
    assert list(found) == ["2", "3"]
    assert found["2"] == before["digits"].fingerprints["2"]
    reload(repository, "digits")
    assert list(repository.versions("digits")) == ["2", "3"]
    repository.forget("digits")
    with pytest.raises(NotFound):
        repository.versions("digits")


def test_other_files_and_folders_are_ignored(models: Path, caplog: Log) -> None:
    (models / "digits" / "latest").mkdir()
    (models / "digits" / "03").mkdir()
    (models / "digits" / ".3.checkpoint.pt").write_bytes(b"")
    (models / "README.md").write_text("")
    (models / ".hidden").mkdir()
    (models / "digits" / "1" / ".DS_Store").write_bytes(b"x")
    (models / "empty").mkdir()
    repository = loaded(models)
    assert {name: list(versions) for name, versions in repository.models.items()} == {"digits": ["1", "2"]}
    repository.folder.scan()
    told = [line for line in caplog.messages if "ignored" in line]
    assert len(told) == 3  # once each
    assert all(any(name in line for line in told) for name in ("latest", "03", "empty"))


def retrain(version: Path) -> None:
    """Replaces the content of a version by other content that is as good."""
    Card.read(version).model_copy(update={"title": "Retrained"}).write(version)


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.onnx").write_bytes(content)


def test_a_damaged_version_is_unavailable_and_the_other_serves(models: Path) -> None:
    flip_a_bit(models / "digits" / "2")
    repository = loaded(models)
    broken = repository.version("digits", "2")
    assert broken.state is State.UNAVAILABLE
    assert broken.reason is not None
    assert "model.onnx" in broken.reason
    assert repository.newest("digits").number == "1"


def test_what_is_not_there_is_not_found(models: Path) -> None:
    repository = loaded(models)
    with pytest.raises(NotFound):
        repository.newest("letters")
    with pytest.raises(NotFound):
        repository.version("digits", "3")


def test_without_a_ready_version_a_model_is_unavailable(models: Path) -> None:
    for version in ("1", "2"):
        flip_a_bit(models / "digits" / version)
    repository = loaded(models)
    with pytest.raises(Unavailable):
        repository.newest("digits")


@contextmanager
def as_nobody() -> Iterator[None]:
    """Runs as a user who may not read everything, even where the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("place", ["", "digits", "digits/2", "digits/2/model.onnx"])
def test_what_is_loaded_serves_on_when_it_may_not_be_read(place: str) -> None:
    with TemporaryDirectory() as folder:  # not in that of pytest, which only its owner may enter
        root = Path(folder) / "models"
        shutil.copytree(MODELS / "digits", root / "digits")
        for path in (Path(folder), *root.rglob("*")):
            path.chmod(0o755)
        repository = loaded(root)
        session = repository.newest("digits").session
        (root / place).chmod(0)
        with as_nobody():
            found = repository.folder.scan().get("digits", NO_FILES)
            failures = repository.load("digits", ["1", "2"])
        (root / place).chmod(0o755)
        assert "2" not in found.fingerprints
        assert [failure for failure in failures if "version 2: its files are missing (" in failure]
        assert all("Permission denied" in failure for failure in failures)
        version = repository.newest("digits")
        assert (version.number, version.session, version.cannot_be_loaded_again) == ("2", session, True)
        assert not reload(repository, "digits")
        version = repository.newest("digits")
        assert (version.reason, version.session, version.cannot_be_loaded_again) == (None, session, False)


def test_a_file_name_that_is_not_utf8_fails_its_own_version_alone(models: Path) -> None:
    (models / "digits" / "2" / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    repository = loaded(models)
    assert ready(repository) == ["1"]
    assert repository.version("digits", "2").reason == "caf?: not on the card"
