"""Loading one version: what a loaded version consists of, and how each step fails."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.engine.batcher import Batcher
from service.engine.cache import CachedBatcher
from service.inference.binding import bind
from service.registry.card import Card
from service.registry.loader import Bind, Loader
from service.registry.verification import VerificationError
from service.registry.versions import FailedVersion, LoadedVersion
from service.settings import Settings
from service.tasks.digits import DigitsTask
from tests.paths import MODELS

pytestmark = pytest.mark.anyio

DIGITS: Bind = bind


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """The perceptron that reads digits."""
    return shutil.copytree(MODELS / "digits" / "1", tmp_path / "digits" / "1")


def load(version: Path, bind: Bind = DIGITS, **settings: Any) -> LoadedVersion | FailedVersion:
    loader = Loader(Settings(models_dir=version.parent.parent, **settings), bind)
    return loader.load(version.parent.name, version.name, "fingerprint")


async def test_a_loaded_version_computes(version: Path) -> None:
    loaded = load(version)
    assert isinstance(loaded, LoadedVersion)
    assert (loaded.name, loaded.number, loaded.fingerprint, loaded.reason) == ("digits", "1", "fingerprint", "")
    assert (loaded.card, loaded.session.precision) == (Card.read(version), "int8")
    assert isinstance(loaded.task, DigitsTask)
    with np.load(version / "golden.npz") as golden:
        outputs, _ = await loaded.batcher.submit({"pictures": golden["in:pictures"]})
        assert np.allclose(outputs["probabilities"], golden["int8:probabilities"], atol=1e-4)


@pytest.mark.parametrize(("cache_bytes", "kind"), [({}, Batcher), ({"digits": 1000}, CachedBatcher)])
def test_the_batcher_has_the_cache_of_the_model(version: Path, cache_bytes: dict[str, int], kind: type) -> None:
    loaded = load(version, cache_bytes=cache_bytes)
    assert isinstance(loaded, LoadedVersion)
    assert isinstance(loaded.cached_batcher, kind)


def fail(error: Exception) -> Bind:
    def bind(_directory: Path, _card: Card) -> None:
        raise error

    return bind


def break_the_graph(version: Path) -> None:
    (version / "model.int8.onnx").write_bytes(b"garbage")


@pytest.mark.parametrize(
    ("damage", "bind", "reason"),
    [
        (break_the_graph, DIGITS, "model.int8.onnx: changed"),
        (lambda version: (version / "card.json").unlink(), DIGITS, "card.json cannot be read: No such file"),
        (lambda _: None, fail(VerificationError("it does not fit")), "it does not fit"),
        (lambda _: None, fail(RuntimeError("a bug")), "it cannot be read; the log says why"),
    ],
)
def test_a_version_that_fails_has_a_reason(
    version: Path, damage: Callable[[Path], None], bind: Bind, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(version)
    failure = load(version, bind)
    assert isinstance(failure, FailedVersion)
    assert (failure.number, failure.fingerprint) == ("1", "fingerprint")
    assert failure.reason.startswith(reason)
    assert ("a bug" in caplog.text) == ("log" in reason)


def test_files_that_cannot_be_read_now_may_be_readable_later(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_directory: Path) -> Card:
        raise OSError(116, "Stale file handle", str(version / "card.json"))

    monkeypatch.setattr(Card, "read", fail)
    reason = "its files are missing (digits/1: card.json cannot be read: Stale file handle)"
    assert load(version) == FailedVersion("digits", "1", reason, None)
