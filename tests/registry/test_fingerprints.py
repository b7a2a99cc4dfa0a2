"""A fingerprint changes with the content of a folder, and with nothing else."""

import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from service.registry.fingerprints import fingerprint


@pytest.fixture
def version(tmp_path: Path) -> Path:
    folder = tmp_path / "1"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"weights" * 1000)
    (folder / "card.json").write_text("{}")
    return folder


def touch(version: Path) -> None:
    os.utime(version / "model.onnx", (0, 0))


def copy(version: Path) -> None:
    shutil.copytree(version, version.with_name("copy"))
    shutil.rmtree(version)
    version.with_name("copy").rename(version)


def write_the_same(version: Path) -> None:
    (version / "model.onnx").write_bytes(b"weights" * 1000)


def hide_a_file_beside(version: Path) -> None:
    (version / ".DS_Store").write_bytes(b"x")


def swap_as_kubernetes_does(version: Path) -> None:
    shutil.copytree(version, version.with_name("..2027"))
    shutil.rmtree(version)
    version.with_name("..data").symlink_to("..2027")
    version.symlink_to("..data")


@pytest.mark.parametrize("change", [touch, copy, write_the_same, hide_a_file_beside, swap_as_kubernetes_does])
def test_times_inodes_and_hidden_files_do_not_matter(version: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(version)
    change(version)
    assert fingerprint(version) == before


def overwrite_with_the_same_size_and_times(version: Path) -> None:
    status = (version / "model.onnx").stat()
    time.sleep(0.02)  # the clock of the file system ticks a hundred times a second or more
    (version / "model.onnx").write_bytes(b"WEIGHTS" * 1000)
    os.utime(version / "model.onnx", ns=(status.st_atime_ns, status.st_mtime_ns))


def rename(version: Path) -> None:
    (version / "card.json").rename(version / "cards.json")


def exchange_two_files(version: Path) -> None:
    (version / "card.json").rename(version / "other")
    (version / "model.onnx").rename(version / "card.json")
    (version / "other").rename(version / "model.onnx")


@pytest.mark.parametrize("change", [overwrite_with_the_same_size_and_times, rename, exchange_two_files])
def test_content_and_names_matter(version: Path, change: Callable[[Path], None]) -> None:
    before = fingerprint(version)
    change(version)
    assert fingerprint(version) != before


def test_a_file_that_has_not_changed_is_not_read_again(version: Path) -> None:
    with (version / "model.onnx").open("wb") as file:
        file.truncate(2**26)  # a tenth of a second to read
    began = time.perf_counter()
    first = fingerprint(version)
    took = time.perf_counter() - began
    began = time.perf_counter()
    assert fingerprint(version) == first
    assert time.perf_counter() - began < took / 20


def test_a_broken_link_is_a_failure_to_read(version: Path) -> None:
    (version / "golden.npz").symlink_to("nowhere")
    with pytest.raises(FileNotFoundError):
        fingerprint(version)


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_entries_that_are_not_regular_files_are_not_read(
    version: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(version)
    monkeypatch.chdir(version)  # the path of a socket has 108 bytes at most
    with socket.socket(socket.AF_UNIX) as listening:
        match kind:
            case "folder":
                Path("strange").mkdir()
            case "pipe":
                os.mkfifo("strange")
            case "socket":
                listening.bind("strange")
            case "device":
                Path("strange").symlink_to("/dev/zero")
        assert fingerprint(version) != before


def test_file_names_that_are_not_utf8_count_too(version: Path) -> None:
    before = fingerprint(version)
    (version / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    assert fingerprint(version) != before
