"""Which variables turn tracing on."""

import sys

import pytest

from service.errors import StartupError
from service.observability import tracing as traces

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def test_requests_are_traced_if_an_endpoint_is_set() -> None:
    assert traces.check(ENDPOINT)
    assert not traces.check({})
    assert not traces.check(ENDPOINT | {"OTEL_SDK_DISABLED": "true"})
    assert not traces.check(ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"})


def test_an_endpoint_without_the_library_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.startswith("opentelemetry.exporter")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)  # as if nothing of it were installed
    with pytest.raises(StartupError, match=r"OTEL_EXPORTER_OTLP_ENDPOINT is set, but .* install deepserve\[otlp\]"):
        traces.check(ENDPOINT)
