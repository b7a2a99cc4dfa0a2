"""Traces of requests by OpenTelemetry, set by its own variables `OTEL_*`; without an endpoint there are none.

A request is a span, in the trace that its client has begun if it has; what it went through are spans below it: decode,
queue, run, encode. They are made when it has ended, from the times that the call has noted anyway.
"""

import importlib.util
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from service.call import Call
from service.errors import StartupError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

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
    if importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is None:
        raise StartupError(f"{endpoint} is set, but what sends traces is not installed: install deepserve[otlp]")
    return True


def trace_id(traceparent: bytes | None) -> str:
    """The trace that a client has begun (W3C Trace Context); empty if it has not."""
    match = _TRACEPARENT.fullmatch(traceparent or b"")
    return match[1].decode() if match else ""


class Tracing:
    """Sends the spans of this process, in a thread of its own."""

    def __init__(self) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        resource = Resource.create({SERVICE_NAME: "deepserve"}).merge(OTELResourceDetector().detect())
        self._provider: TracerProvider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))

    def begin(self, method: str, route: str, headers: Mapping[bytes, bytes], call: Call) -> "Trace":
        """A request has begun."""
        return Trace(self._provider, method, route, headers, call)


class Trace:
    """The spans of one request."""

    def __init__(
        self, provider: "TracerProvider", method: str, route: str, headers: Mapping[bytes, bytes], call: Call
    ) -> None:
        from opentelemetry import propagate
        from opentelemetry.trace import SpanKind

        fields = propagate.get_global_textmap().fields
        carrier = {name: headers[name.encode()].decode("latin-1") for name in fields if name.encode() in headers}
        self._clock = time.time_ns() - int(1e9 * time.perf_counter())
        """What `time.perf_counter` lacks to the time of day, in ns."""
        self._tracer = provider.get_tracer("deepserve")
        self._call = call
        self._span: Span = self._tracer.start_span(
            f"{method} {route}",
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            start_time=self._at(call.started),
            attributes={"http.request.method": method, "http.route": route, "deepserve.request_id": call.request_id},
        )
        context = self._span.get_span_context()
        call.trace_id = f"{context.trace_id:032x}"
        self.is_sampled = context.trace_flags.sampled
        """Whether it is sent."""

    def end(self, outcome: str, ended: float) -> None:
        """The request has ended, at `ended` by `time.perf_counter`."""
        from opentelemetry.trace import StatusCode, set_span_in_context

        call, span = self._call, self._span
        if span.is_recording():
            stages = {
                "decode": (call.received, call.decoded),
                "queue": (call.queued, call.began),
                "run": (call.began, call.ran),
                "encode": (call.computed, call.encoded),
            }
            below = set_span_in_context(span)
            for name, (first, last) in stages.items():
                if first and last:
                    self._tracer.start_span(name, below, start_time=self._at(first)).end(self._at(last))
            facts = {"deepserve.model": call.model, "deepserve.version": call.number, "deepserve.outcome": outcome}
            span.set_attributes({name: fact for name, fact in facts.items() if fact})
            if call.status:
                span.set_attribute("http.response.status_code", call.status)
            if call.status >= 500:
                span.set_status(StatusCode.ERROR)
        span.end(self._at(ended))

    def _at(self, when: float) -> int:
        return self._clock + int(1e9 * when)
