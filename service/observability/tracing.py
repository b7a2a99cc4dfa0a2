"""Traces of requests, made and sent by OpenTelemetry's library if its variables `OTEL_*` name an endpoint.

A request is a span, in the trace of its client if the client sent one. Below it are the spans of its stages: decode,
queue, run and encode. They are made when the request has ended, from the times that its context has recorded. The
library is optional, so it is imported only where requests are traced.
"""

import importlib.util
import re
import time
from collections.abc import Iterator, Mapping
from threading import Thread
from typing import TYPE_CHECKING

from service.context import RequestContext
from service.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Tracer

CLOSE_SECONDS = 2.0
"""Time that the end of the process waits for its last spans to be sent."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


def check(environment: Mapping[str, str]) -> bool:
    """Return whether requests are traced.

    Raises:
        StartupError: they should be traced, but the library is missing or does not speak the protocol.
    """
    endpoint = next((name for name in _ENDPOINTS if environment.get(name)), None)
    disabled = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if endpoint is None or disabled or environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return False
    protocol = next((environment[name] for name in _PROTOCOLS if environment.get(name)), "http/protobuf")
    if protocol != "http/protobuf":
        raise StartupError(f"{_PROTOCOLS[1]}: {protocol} is not supported; http/protobuf is")
    if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
        raise StartupError(f"{endpoint} is set, but the library that sends traces is missing: install deepserve[otlp]")
    return True


def trace_id(traceparent: bytes | None) -> str:
    """Return the id of the trace that a client sent (W3C Trace Context); empty if it sent none."""
    match = _TRACEPARENT.fullmatch(traceparent or b"")
    return match[1].decode() if match else ""


class Tracing:
    """Traces the requests of this process. A thread sends the spans."""

    def __init__(self) -> None:
        from opentelemetry import propagate
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({SERVICE_NAME: "deepserve"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("deepserve")
        self._extract = propagate.extract
        self._fields = {name.encode(): name for name in propagate.get_global_textmap().fields}
        """The headers in which clients send the context of their trace."""

    def begin(self, method: str, route: str, headers: Mapping[bytes, bytes], context: RequestContext) -> "Trace":
        """Begin the span of a request, and set the trace id of its context."""
        carrier = {name: headers[field].decode("latin-1") for field, name in self._fields.items() if field in headers}
        return Trace(self._tracer, method, route, self._extract(carrier), context)

    def close(self) -> None:
        """Send the spans that wait, if their receiver can be reached within `CLOSE_SECONDS`."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(CLOSE_SECONDS)


class Trace:
    """The spans of one request."""

    def __init__(self, tracer: "Tracer", method: str, route: str, parent: "Context", context: RequestContext) -> None:
        from opentelemetry.trace import SpanKind

        self._offset = time.time_ns() - int(1e9 * time.perf_counter())
        """Offset from `time.perf_counter` to Unix time, in ns."""
        self._tracer = tracer
        self._context = context
        self._span = tracer.start_span(
            f"{method} {route}",
            parent,
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route, "deepserve.request_id": context.request_id},
            start_time=self._unix_ns(context.started),
        )
        span = self._span.get_span_context()
        context.trace_id = f"{span.trace_id:032x}"
        self.is_sampled = span.trace_flags.sampled
        """Whether the trace is sent."""

    def end(self, outcome: str, ended: float) -> None:
        """End the span of the request and add those of its stages; `ended` is a time of `time.perf_counter`."""
        if self.is_sampled:
            self._add_stages()
            self._add_attributes(outcome)
        self._span.end(self._unix_ns(ended))

    def _add_stages(self) -> None:
        from opentelemetry.context import Context
        from opentelemetry.trace import set_span_in_context

        parent = set_span_in_context(self._span, Context())
        for name, began, ended in _stages(self._context):
            self._tracer.start_span(name, parent, start_time=self._unix_ns(began)).end(self._unix_ns(ended))

    def _add_attributes(self, outcome: str) -> None:
        from opentelemetry.trace import StatusCode

        context = self._context
        attributes: dict[str, str | int] = {
            "deepserve.model": context.model,
            "deepserve.version": context.served_version,
            "deepserve.outcome": outcome,
            "http.response.status_code": context.status,
        }
        self._span.set_attributes({name: value for name, value in attributes.items() if value})
        if context.status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def _unix_ns(self, when: float) -> int:
        return self._offset + int(1e9 * when)


def _stages(context: RequestContext) -> Iterator[tuple[str, float, float]]:
    """Yield the name, the begin and the end of each stage that a request went through."""
    if (timings := context.timings) is None:
        return
    for name, began, ended in (
        ("decode", timings.received, timings.preprocessed),
        ("queue", timings.queued, timings.started),
        ("run", timings.started, timings.ended),
        ("encode", timings.computed, timings.encoded),
    ):
        if began and ended:
            yield name, began, ended


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a package that would contain it is missing
        return False
