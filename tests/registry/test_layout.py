"""Which folders in a models folder are models and versions, and which are ignored."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from service.registry.layout import scan, why_missing


def test_versions_are_numbers_oldest_first(tmp_path: Path) -> None:
    for folder in ("digits/10", "digits/9", "digits/1", "sentiment/2"):
        (tmp_path / folder).mkdir(parents=True)
    layout = scan(tmp_path)
    assert layout.models == {"digits": ["1", "9", "10"], "sentiment": ["2"]}
    assert layout.ignored == []


@pytest.mark.parametrize("stray", ["latest", "03", "0", "-1", "1.0", "2-candidate", "1234567890", "٣"])
def test_other_folders_in_a_model_are_ignored_with_the_reason(tmp_path: Path, stray: str) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    (tmp_path / "digits" / stray).mkdir()
    layout = scan(tmp_path)
    assert layout.models == {"digits": ["1"]}
    assert layout.ignored == [f"digits/{stray}: a version is a number, as in digits/1"]


@pytest.mark.parametrize(("stray", "reason"), [("Digits", "the name of a model"), ("empty", "no version in it")])
def test_folders_that_are_not_models_are_ignored_with_the_reason(tmp_path: Path, stray: str, reason: str) -> None:
    (tmp_path / stray).mkdir()
    layout = scan(tmp_path)
    assert layout.models == {}
    [line] = layout.ignored
    assert line.startswith(f"{stray}: {reason}")


def test_files_and_hidden_entries_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    (tmp_path / "README.md").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / "digits" / ".3.checkpoint.pt").write_text("")
    assert scan(tmp_path).ignored == []


def test_the_links_of_a_kubernetes_volume_are_followed(tmp_path: Path) -> None:
    (tmp_path / "..2026" / "digits" / "1").mkdir(parents=True)
    (tmp_path / "..data").symlink_to("..2026")
    (tmp_path / "digits").symlink_to("..data/digits")
    assert scan(tmp_path).models == {"digits": ["1"]}


def loop(place: Path) -> None:
    place.symlink_to(place.name)


def lead_nowhere(place: Path) -> None:
    place.symlink_to("unmounted/volume")


@pytest.mark.parametrize(
    ("put", "reason"), [(loop, "Too many levels of symbolic links"), (lead_nowhere, "No such file or directory")]
)
def test_a_model_that_cannot_be_read_is_not_ignored(tmp_path: Path, put: Callable[[Path], None], reason: str) -> None:
    (tmp_path / "digits" / "1").mkdir(parents=True)
    put(tmp_path / "sentiment")
    put(tmp_path / "digits" / "2")
    layout = scan(tmp_path)
    assert layout.models == {"digits": ["1", "2"]}
    assert layout.unreadable == {"sentiment": f"sentiment: {reason}"}
    assert layout.ignored == []
    assert why_missing(tmp_path, "digits", "2") == f"digits/2: {reason}"


def test_why_a_version_is_missing_names_the_first_folder_that_fails(tmp_path: Path) -> None:
    root = tmp_path / "models"
    assert why_missing(root, "digits", "1") == "the models folder: No such file or directory"
    root.mkdir()
    assert why_missing(root, "digits", "1") == "digits: No such file or directory"
    (root / "digits").write_bytes(b"")
    assert why_missing(root, "digits", "1") == "digits: Not a directory"


@pytest.mark.parametrize("name", [os.fsdecode(b"caf\xe9"), "new\nline", "\x1b[31mred", "\u202ereversed"])
def test_ignored_names_are_safe_to_print(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / "digits" / "1").mkdir(parents=True)
    (tmp_path / "digits" / name).mkdir()
    ignored = scan(tmp_path).ignored
    assert len(ignored) == 2
    assert all(line.isprintable() and line.encode() for line in ignored)
