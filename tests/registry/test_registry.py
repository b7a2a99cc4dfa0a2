"""Which versions are loaded and which one answers: a version that fails takes no other down."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from service.errors import NotFound, Unavailable
from service.inference.binding import bind
from service.registry.card import Card
from service.registry.models_folder import ModelFiles
from service.registry.registry import ModelRegistry
from service.registry.versions import FailedVersion, LoadedVersion, State, UnloadedVersion
from service.settings import Settings
from service.version_policy import VersionPolicy
from tests.paths import MODELS

Log = pytest.LogCaptureFixture

NEWER, OLDER = ({"digits": {"version": number, "share": 0.5}} for number in ("2", "1"))


def empty(root: Path = MODELS, **settings: Any) -> ModelRegistry:
    """A registry that has loaded nothing."""
    return ModelRegistry(Settings(models_dir=root, **settings), bind)


def serving(numbers: list[str], **settings: Any) -> ModelRegistry:
    """A registry with these versions of digits, of those that are shipped."""
    registry = empty(**settings)
    registry.load("digits", numbers)
    return registry


def loaded(root: Path, policy: VersionPolicy | None = None, **settings: Any) -> ModelRegistry:
    """A registry with all models in `root`."""
    registry = empty(root, **settings)
    for name in registry.folder.scan():
        reload(registry, name, policy)
    return registry


def reload(registry: ModelRegistry, name: str = "digits", policy: VersionPolicy | None = None) -> list[FailedVersion]:
    """Load the versions of a model that are in its folder now."""
    return registry.load(name, registry.folder.files(name).numbers, policy)


def ready(registry: ModelRegistry) -> list[str]:
    return [version.number for version in registry.model("digits").loaded]


def get(registry: ModelRegistry, number: str) -> LoadedVersion:
    version = registry.version("digits", number)
    assert isinstance(version, LoadedVersion)
    return version


def add(models: Path, *numbers: str) -> None:
    """Further versions of digits."""
    for number in numbers:
        shutil.copytree(models / "digits" / "1", models / "digits" / number)
        Card.read(models / "digits" / number).model_copy(update={"version": number}).write(models / "digits" / number)


def retrain(version: Path) -> None:
    """Replace the content of a version with other valid content."""
    Card.read(version).model_copy(update={"title": "Retrained"}).write(version)


def flip_a_bit(version: Path) -> None:
    content = bytearray((version / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (version / "model.onnx").write_bytes(content)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two versions of digits: the perceptron, twice."""
    shutil.copytree(MODELS / "digits" / "1", tmp_path / "digits" / "1")
    add(tmp_path, "2")
    return tmp_path


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "2"),
        ({"canary": NEWER}, "1"),
        ({"shadow": NEWER}, "1"),
        ({"shadow": OLDER}, "2"),
        ({"canary": OLDER, "shadow": NEWER}, "2"),
    ],
)
def test_the_newest_version_that_is_not_under_trial_is_the_default(settings: dict[str, Any], expected: str) -> None:
    assert serving(["1", "2"], **settings).find("digits", None).number == expected


@pytest.mark.parametrize("settings", [{"canary": NEWER}, {"shadow": NEWER}])
def test_a_version_under_trial_is_the_default_if_there_is_no_other(settings: dict[str, Any]) -> None:
    assert serving(["2"], **settings).find("digits", None).number == "2"


def test_a_canary_gets_only_requests_with_an_id_and_without_a_version() -> None:
    registry = serving(["1", "2"], canary={"digits": {"version": "2", "share": 1}})
    assert registry.find("digits", None).number == "1"
    assert registry.find("digits", None, "id").number == "2"
    assert registry.find("digits", "1", "id").number == "1"


def test_the_default_replaces_a_canary_that_is_not_loaded() -> None:
    registry = serving(["1", "2"], canary={"digits": {"version": "2", "share": 1}})
    registry.load("digits", ["1"])
    assert registry.find("digits", None, "id").number == "1"


def test_versions_are_ordered_by_number(models: Path) -> None:
    add(models, "10", "9")
    registry = loaded(models)
    assert list(registry.model("digits").versions) == ["1", "2", "9", "10"]
    assert registry.find("digits", None).number == "10"


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
    registry = loaded(models, None if policy is None else VersionPolicy.parse(policy))
    assert ready(registry) == chosen
    others = [registry.version("digits", number) for number in ("1", "2", "3") if number not in chosen]
    assert all(isinstance(version, UnloadedVersion) and "version policy" in version.reason for version in others)


def test_versions_under_trial_are_loaded_beside_the_latest(models: Path) -> None:
    add(models, "3", "4", "5")
    trials = {"canary": {"digits": {"version": "5", "share": 0}}, "shadow": {"digits": {"version": "1", "share": 0}}}
    registry = loaded(models, **trials)
    assert ready(registry) == ["1", "3", "4", "5"]
    reload(registry, policy=VersionPolicy.parse([4]))
    assert ready(registry) == ["4"]


def test_a_policy_is_a_setting_of_each_model(models: Path) -> None:
    registry = loaded(models, version_policy={"digits": "latest 1"})
    assert ready(registry) == ["2"]
    reload(registry, policy=VersionPolicy.parse([1]))  # for this load only
    assert ready(registry) == ["1"]
    reload(registry)
    assert ready(registry) == ["2"]


def test_the_next_older_version_replaces_one_that_fails(models: Path) -> None:
    add(models, "3")
    flip_a_bit(models / "digits" / "3")
    assert ready(loaded(models, VersionPolicy.parse("latest 1"))) == ["2"]


def test_only_a_version_whose_content_has_changed_is_loaded_again(models: Path, caplog: Log) -> None:
    registry = loaded(models)
    before = get(registry, "1"), get(registry, "2")
    for path in (models / "digits" / "1").iterdir():
        path.touch()
    retrain(models / "digits" / "2")
    assert not reload(registry)
    assert get(registry, "1") is before[0]
    assert get(registry, "2").session is not before[1].session
    assert [line for line in caplog.messages if "under the same number" in line] == [
        "model digits version 2: its files have been replaced under the same number; "
        "a retrained model should get a new number"
    ]


def test_a_version_whose_new_files_fail_serves_as_it_was_loaded(models: Path) -> None:
    registry = loaded(models)
    version = get(registry, "2")
    flip_a_bit(models / "digits" / "2")
    [failure] = reload(registry)
    assert (failure.number, version.failure) == ("2", failure)
    assert "model.onnx" in failure.reason
    assert get(registry, "2") is version
    assert version.reason == f"its files have changed and were not taken: {failure.reason}"


def test_files_that_have_failed_are_not_verified_again_until_they_change(models: Path, caplog: Log) -> None:
    registry = loaded(models)
    flip_a_bit(models / "digits" / "2")
    [failure] = reload(registry)
    assert reload(registry) == [failure]
    assert len([line for line in caplog.messages if "version 2 serves on as it was loaded" in line]) == 1
    flip_a_bit(models / "digits" / "2")
    assert not reload(registry)
    assert get(registry, "2").reason == ""


def test_if_all_chosen_versions_fail_the_loaded_ones_stay(models: Path) -> None:
    registry = loaded(models)
    add(models, "3")
    flip_a_bit(models / "digits" / "3")
    assert reload(registry, policy=VersionPolicy.parse([3]))
    assert ready(registry) == ["1", "2"]


def test_a_version_without_a_task_fails(models: Path) -> None:
    version = shutil.copytree(MODELS / "sentiment" / "2", models / "letters" / "1")
    Card.read(version).model_copy(update={"name": "letters", "version": "1"}).write(version)
    registry = empty(models)
    [failure] = reload(registry, "letters")
    assert (failure.number, failure.reason) == ("1", "there is no task of this name")
    failed = registry.version("letters", "1")
    assert isinstance(failed, FailedVersion)
    assert failed.state is State.UNAVAILABLE
    with pytest.raises(Unavailable):
        registry.find("letters", None)


def test_an_unloaded_model_can_be_loaded_again(models: Path) -> None:
    registry = loaded(models)
    registry.unload("digits", ["1", "2"])
    assert {version.reason for version in registry.model("digits").versions.values()} == {"unloaded"}
    for number in (None, "1"):
        with pytest.raises(Unavailable):
            registry.find("digits", number)
    reload(registry)
    assert ready(registry) == ["1", "2"]


def test_a_version_with_a_broken_link_fails_alone(models: Path) -> None:
    add(models, "3")
    (models / "digits" / "3" / "model.onnx").unlink()
    (models / "digits" / "3" / "model.onnx").symlink_to("nowhere")
    registry = empty(models)
    reason = "its files are missing (digits/3/model.onnx: No such file or directory)"
    assert reload(registry) == [FailedVersion("digits", "3", reason)]
    assert ready(registry) == ["1", "2"]
    assert registry.readable_again() == []
    (models / "digits" / "3" / "model.onnx").unlink()
    shutil.copy(models / "digits" / "1" / "model.onnx", models / "digits" / "3")
    assert registry.readable_again() == ["digits"]
    assert not reload(registry)
    assert ready(registry) == ["2", "3"]


def test_versions_come_and_go_with_their_folders(models: Path) -> None:
    registry = loaded(models)
    before = registry.folder.scan()
    add(models, "3")
    shutil.rmtree(models / "digits" / "1")
    found = registry.folder.scan()["digits"].fingerprints
    assert list(found) == ["2", "3"]
    assert found["2"] == before["digits"].fingerprints["2"]
    reload(registry)
    assert list(registry.model("digits").versions) == ["2", "3"]
    registry.forget("digits")
    with pytest.raises(NotFound):
        registry.model("digits")


def test_other_files_and_folders_are_ignored(models: Path, caplog: Log) -> None:
    for folder in ("digits/latest", "digits/03", ".hidden", "empty"):
        (models / folder).mkdir()
    for file in ("digits/.3.checkpoint.pt", "README.md", "digits/1/.DS_Store"):
        (models / file).write_bytes(b"x")
    registry = loaded(models)
    assert {name: list(model.versions) for name, model in registry.models.items()} == {"digits": ["1", "2"]}
    registry.folder.scan()
    logged = [line for line in caplog.messages if "ignored" in line]
    assert len(logged) == 3  # once each
    assert all(any(name in line for line in logged) for name in ("latest", "03", "empty"))


def test_a_damaged_version_fails_and_the_other_serves(models: Path) -> None:
    flip_a_bit(models / "digits" / "2")
    registry = loaded(models)
    broken = registry.version("digits", "2")
    assert isinstance(broken, FailedVersion)
    assert "model.onnx" in broken.reason
    assert registry.find("digits", None).number == "1"


def test_unknown_models_and_versions_are_not_found(models: Path) -> None:
    registry = loaded(models)
    for name, number in (("letters", None), ("letters", "1"), ("digits", "3")):
        with pytest.raises(NotFound):
            registry.find(name, number)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Run as a user who may not read everything, even if the tests run as root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("place", ["", "digits", "digits/2", "digits/2/model.onnx"])
def test_loaded_versions_stay_when_their_files_may_not_be_read(place: str) -> None:
    with TemporaryDirectory() as folder:  # pytest's own may be entered by its owner only
        root = Path(folder) / "models"
        shutil.copytree(MODELS / "digits", root / "digits")
        for path in (Path(folder), *root.rglob("*")):
            path.chmod(0o755)
        registry = loaded(root)
        version = get(registry, "2")
        (root / place).chmod(0)
        with as_nobody():
            found = registry.folder.scan().get("digits", ModelFiles())
            failures = registry.load("digits", ["1", "2"])
        (root / place).chmod(0o755)
        assert "2" not in found.fingerprints
        assert all("Permission denied" in failure.reason for failure in failures)
        assert version.failure in failures
        assert version.reason.startswith("its files are missing (")
        assert registry.find("digits", None) is version
        assert not reload(registry)
        assert (get(registry, "2"), version.reason) == (version, "")


def test_a_version_with_a_file_name_that_is_not_utf8_fails_alone(models: Path) -> None:
    (models / "digits" / "2" / os.fsdecode(b"caf\xe9")).write_bytes(b"")
    registry = loaded(models)
    assert ready(registry) == ["1"]
    assert registry.version("digits", "2").reason == "caf?: not on the card"
