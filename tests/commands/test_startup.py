"""The requirement of rate limits: it says where requests are counted, and never shows a password."""

from typing import Any

import pytest

from service.commands.startup import check_rate_limit
from service.errors import StartupError
from service.settings import Settings


@pytest.mark.parametrize(
    ("settings", "found"),
    [
        ({}, "off"),
        ({"rate_limit_per_second": 5}, "5 requests a second for each client"),
        (
            {"rate_limit_per_second": 5, "workers": 3},
            "5 requests a second for each client in each of 3 workers, which do not share it",
        ),
        (
            {"rate_limit_per_second": 5, "rate_limit_storage_uri": "redis://:secret@host:1/0"},
            "5 requests a second for each client, shared by Redis at host:1/0",
        ),
    ],
)
def test_it_says_where_requests_are_counted(settings: dict[str, Any], found: str) -> None:
    assert check_rate_limit(Settings(**settings)) == found


def test_an_invalid_uri_is_an_error_that_does_not_show_the_password() -> None:
    settings = Settings(rate_limit_per_second=5, rate_limit_storage_uri="redis://:sec/ret@host:1")
    with pytest.raises(StartupError, match=r"^DEEPSERVE_RATE_LIMIT_STORAGE_URI: not the URI of a Redis server$"):
        check_rate_limit(settings)


@pytest.mark.parametrize("uri", ["memcached://host", "redis://", "memory://host", "redis", ""])
def test_other_storages_are_refused_by_the_setting(uri: str) -> None:
    with pytest.raises(ValueError, match="neither memory:// nor the URI of a Redis server"):
        Settings(rate_limit_per_second=5, rate_limit_storage_uri=uri)
