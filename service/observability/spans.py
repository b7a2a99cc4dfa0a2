"""The spans of requests, which OpenTelemetry's library makes and sends: imported only where requests are traced.

What a request went through is told when it has ended, by the times that its call has noted anyway.
"""

import time
from collections.abc import Mapping
from threading import Thread

from opentelemetry import propagate
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, StatusCode, Tracer, set_span_in_context

from service.context import RequestContext

PATIENCE = 2.0
"""Seconds that the end of the process waits for its last spans to be sent."""


class Tracing:
    """Traces the requests of this process, and sends their spans in a thread of its own."""

    def __init__(self) -> None:
        resource = Resource.create({SERVICE_NAME: "deepserve"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("deepserve")
        self._fields = {name.encode(): name for name in propagate.get_global_textmap().fields}
        """The headers by which clients say to which trace a request belongs."""

    def begin(self, method: str, route: str, headers: Mapping[bytes, bytes], context: RequestContext) -> "Trace":
        """A request has begun."""
        carrier = {name: headers[field].decode("latin-1") for field, name in self._fields.items() if field in headers}
        return Trace(self._tracer, method, route, propagate.extract(carrier) if carrier else Context(), context)

    def close(self) -> None:
        """Sends the spans that wait, if whoever gets them can be reached."""
        closing = Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        closing.join(PATIENCE)


class Trace:
    """The spans of one request."""

    def __init__(self, tracer: Tracer, method: str, route: str, parent: Context, context: RequestContext) -> None:
        self._clock = time.time_ns() - int(1e9 * time.perf_counter())
        """What `time.perf_counter` lacks to the time of day, in ns."""
        self._tracer = tracer
        self._context = context
        self._span = tracer.start_span(
            f"{method} {route}",
            parent,
            SpanKind.SERVER,
            {"http.request.method": method, "http.route": route, "deepserve.request_id": context.request_id},
            start_time=self._at(context.started),
        )
        span = self._span.get_span_context()
        context.trace_id = f"{span.trace_id:032x}"
        self.is_sampled = span.trace_flags.sampled
        """Whether it is sent."""

    def end(self, outcome: str, ended: float) -> None:
        """The request has ended, at `ended` by `time.perf_counter`."""
        if self.is_sampled:
            self._add_stages()
            self._add_facts(outcome)
        self._span.end(self._at(ended))

    def _add_stages(self) -> None:
        """The spans below: what it went through."""
        timings, parent = self._context.timings, set_span_in_context(self._span, Context())
        if timings is None:
            return
        for name, first, last in (
            ("decode", timings.received, timings.preprocessed),
            ("queue", timings.queued, timings.started),
            ("run", timings.started, timings.ended),
            ("encode", timings.computed, timings.encoded),
        ):
            if first and last:
                self._tracer.start_span(name, parent, start_time=self._at(first)).end(self._at(last))

    def _add_facts(self, outcome: str) -> None:
        context = self._context
        facts: dict[str, str | int] = {
            "deepserve.model": context.model,
            "deepserve.version": context.served_version,
            "deepserve.outcome": outcome,
            "http.response.status_code": context.status,
        }
        self._span.set_attributes({name: fact for name, fact in facts.items() if fact})
        if context.status >= 500:
            self._span.set_status(StatusCode.ERROR)

    def _at(self, when: float) -> int:
        return self._clock + int(1e9 * when)
