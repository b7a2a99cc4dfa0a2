"""What tests share: the event loop that async tests run on, and the same random examples every time."""

import pytest
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
