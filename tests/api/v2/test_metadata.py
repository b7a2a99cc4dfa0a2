"""The index of the model repository extension, and the extensions that the server announces."""

import shutil
from pathlib import Path

from service.api.v2 import metadata
from service.registry.versions import State
from tests.paths import MODELS
from tests.registry.test_registry import empty, reload


def test_the_index_has_the_state_and_the_reason_of_every_version(tmp_path: Path) -> None:
    shutil.copytree(MODELS / "digits", tmp_path / "digits")
    shutil.copytree(MODELS / "digits" / "1", tmp_path / "digits" / "3")  # its card is that of version 1
    registry = empty(tmp_path, version_policy={"digits": "latest 1"})
    reload(registry, "digits")
    registry.load("letters", [])
    assert metadata.index(registry.models, only_ready=False) == [
        metadata.IndexEntry("digits", "1", State.UNAVAILABLE, "the version policy (latest 1) leaves it out"),
        metadata.IndexEntry("digits", "2", State.READY, ""),
        metadata.IndexEntry("digits", "3", State.UNAVAILABLE, "card.json is that of digits version 1"),
        metadata.IndexEntry("letters", "", State.UNAVAILABLE, "its files are missing"),
    ]
    assert [entry.version for entry in metadata.index(registry.models, only_ready=True)] == ["2"]


def test_only_a_server_with_admin_keys_announces_the_repository_extension() -> None:
    assert "model_repository" in metadata.server(has_admin=True).extensions
    assert "model_repository" not in metadata.server(has_admin=False).extensions
