"""Whether requests are traced: by OpenTelemetry's own variables `OTEL_*`; without an endpoint they are not.

A request is a span, in the trace that its client has begun if it has; what it went through are spans below it: decode,
queue, run, encode. `service.observability.spans` makes and sends them.
"""

import importlib.util
import re
from collections.abc import Mapping

from service.errors import StartupError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


def check(environment: Mapping[str, str]) -> bool:
    """Whether requests are traced.

    Raises:
        StartupError: they should be, and cannot.
    """
    endpoint = next((name for name in _ENDPOINTS if environment.get(name)), None)
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if endpoint is None or disabled or environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise StartupError(f"{_PROTOCOLS[1]}: {protocol} is not spoken here; http/protobuf is")
    if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        raise StartupError(f"{endpoint} is set, but what sends traces is not installed: install deepserve[otlp]")
    return True


def trace_id(traceparent: bytes | None) -> str:
    """The trace that a client has begun (W3C Trace Context); empty if it has not."""
    match = _TRACEPARENT.fullmatch(traceparent or b"")
    return match[1].decode() if match else ""


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # nor is a package that it would be in
        return False
