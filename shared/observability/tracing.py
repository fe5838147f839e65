"""Tracing: OpenTelemetry spans, exported with OTLP over HTTP if OTEL_EXPORTER_OTLP_ENDPOINT is set.

Without it the SDK (shared/observability/tracing_sdk.py) is not imported and every call here returns immediately; the
W3C `traceparent` of a request is still propagated to logs and events. OpenTelemetry's own variables configure
sampling and export
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, Tracer
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.runtime.settings import ProcessSettings

if TYPE_CHECKING:
    from shared.observability.tracing_sdk import Recorder

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00.
TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# Requests between services and of the monitoring: neither traced nor in the access log.
QUIET = ("/health/", "/metrics", "/internal/")
# Maximum number of links of a span, and of traces in which one operation gets a span.
_LIMIT = 32


class _State:
    """State of tracing in this process, set by `start`."""

    tracer: Tracer | None = None
    recorder: "Recorder | None" = None


def start(settings: ProcessSettings) -> None:
    """Start exporting spans if an endpoint is configured."""
    if not settings.otel_exporter_otlp_endpoint:
        return
    # A seventh of the modules of a service, so imported only if spans are exported.
    from shared.observability import tracing_sdk  # pylint: disable=import-outside-toplevel

    _State.recorder = tracing_sdk.Recorder(settings)
    _State.tracer = _State.recorder.tracer


def stop() -> None:
    """Export the remaining spans."""
    if _State.recorder is not None:
        _State.recorder.stop()


def traced_app(app: Any) -> Any:
    """Wrap the application so that each client request gets a span."""
    return app if _State.recorder is None else _State.recorder.traced_app(app, QUIET)


def trace_statements(engine: AsyncEngine) -> None:
    """Create a span for every SQL statement that is part of a trace."""
    if _State.recorder is not None:
        _State.recorder.trace_statements(engine)


def name_request(method: str, handler: str) -> None:
    """Name the span of the request after its route template, never after the path."""
    if _State.tracer is not None:
        request = trace.get_current_span()
        request.update_name(f"{method} {handler}")
        request.set_attribute("http.route", handler)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the current span, None if there is none."""
    if _State.tracer is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def sampled_ids(traceparents: Iterable[str | None]) -> list[str]:
    """Return the ids of the sampled traces, for log lines about several requests."""
    return [parent[3:35] for parent in _valid_and_sampled(traceparents)]


@contextmanager
def span(name: str, parents: Sequence[str | None] | None = None) -> Iterator[None]:
    """Create a span around the block.

    It is a child of the current span or, with `parents` (traceparents), of the first sampled one, with links to the
    others. Without a sampled parent no span is created: traces start at the entry point.
    """
    if _State.tracer is None:
        yield
        return
    if parents is None:
        parents = [current_traceparent()]
    sampled = _sampled(parents)
    if not sampled:
        yield
        return
    links = [Link(other) for other in sampled[1 : _LIMIT + 1]]
    with _State.tracer.start_as_current_span(name, _context_of(sampled[0]), links=links):
        yield


@contextmanager
def spans(name: str, kind: SpanKind, events: Iterable[tuple[str, str | None]]) -> Iterator[None]:
    """Create a span around the block in the trace of each sampled event (type, traceparent).

    The span of the first event is the current one, so that operations in the block are recorded once.
    """
    if _State.tracer is None:
        yield
        return
    with ExitStack() as stack:
        contexts = [(type_, context) for type_, parent in events for context in _sampled([parent])]
        for type_, context in reversed(contexts[:_LIMIT]):
            stack.enter_context(_State.tracer.start_as_current_span(f"{name} {type_}", _context_of(context), kind))
        yield


def _valid_and_sampled(parents: Iterable[str | None]) -> list[str]:
    # The traceparent of an event may be any text.
    return [
        parent
        for parent in dict.fromkeys(parents)
        if parent is not None and TRACEPARENT.fullmatch(parent) and int(parent[53:], 16) & TraceFlags.SAMPLED
    ]


def _sampled(parents: Iterable[str | None]) -> list[SpanContext]:
    return [
        SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), is_remote=True, trace_flags=TraceFlags(0x01))
        for parent in _valid_and_sampled(parents)
    ]


def _context_of(span_context: SpanContext) -> Context:
    parent: Span = trace.NonRecordingSpan(span_context)
    return trace.set_span_in_context(parent, Context())
