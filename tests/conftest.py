"""Shared by all tests: asyncio as event loop, and reproducible examples of hypothesis."""

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
