"""Traces: OpenTelemetry spans, sent with OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT is set.

Without it the SDK (shared/observability/tracing_sdk.py) is not imported and every call here returns immediately; the
W3C `traceparent` of a request is still passed on to logs and events. Sampling and export are configured by
OpenTelemetry's own variables
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
# What services and monitoring ask each other: neither traced nor in the access log.
QUIET = ("/health/", "/metrics", "/internal/")
# Most links of a span, and most traces in which one step is told.
_LIMIT = 32


class _State:
    """What `start` has started in this process."""

    tracer: Tracer | None = None
    recorder: "Recorder | None" = None


def start(settings: ProcessSettings) -> None:
    """Send spans from now on, if the settings say where."""
    if not settings.otel_exporter_otlp_endpoint:
        return
    # A seventh of a service's modules, so only where spans are sent.
    from shared.observability import tracing_sdk  # pylint: disable=import-outside-toplevel

    _State.recorder = tracing_sdk.Recorder(settings)
    _State.tracer = _State.recorder.tracer


def stop() -> None:
    """Send what has not been sent yet."""
    if _State.recorder is not None:
        _State.recorder.stop()


def traced_app(app: Any) -> Any:
    """Return the application with a span around each request of a client."""
    return app if _State.recorder is None else _State.recorder.traced_app(app, QUIET)


def trace_statements(engine: AsyncEngine) -> None:
    """Make a span of every statement that is part of a trace."""
    if _State.recorder is not None:
        _State.recorder.trace_statements(engine)


def name_request(method: str, handler: str) -> None:
    """Name the request's span once its route is known: by the template, never the path itself."""
    if _State.tracer is not None:
        request = trace.get_current_span()
        request.update_name(f"{method} {handler}")
        request.set_attribute("http.route", handler)


def current_traceparent() -> str | None:
    """Return the `traceparent` of the current span, None where there is none."""
    if _State.tracer is None:
        return None
    context = trace.get_current_span().get_span_context()
    if not context.is_valid:
        return None
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"


def sampled_ids(traceparents: Iterable[str | None]) -> list[str]:
    """Return the trace ids of those traces that are recorded, for a log line about many."""
    return [parent[3:35] for parent in _recorded(traceparents)]


@contextmanager
def span(name: str, parents: Sequence[str | None] | None = None) -> Iterator[None]:
    """Put a span around the block.

    It is a child of the current span or, with `parents` (traceparents), of the first that is sampled, and linked to
    the others. Where there is no such span there is none here: every trace begins at the edge.
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
    """Put a span around the block in the trace of each event (type, traceparent) that is sampled.

    The first is the current one in the block, so that what happens there is told once.
    """
    if _State.tracer is None:
        yield
        return
    with ExitStack() as stack:
        found = [(type_, context) for type_, parent in events for context in _sampled([parent])]
        for type_, context in reversed(found[:_LIMIT]):
            stack.enter_context(_State.tracer.start_as_current_span(f"{name} {type_}", _context_of(context), kind))
        yield


def _recorded(parents: Iterable[str | None]) -> list[str]:
    # An event may carry anything.
    return [
        parent
        for parent in dict.fromkeys(parents)
        if parent is not None and TRACEPARENT.fullmatch(parent) and int(parent[53:], 16) & TraceFlags.SAMPLED
    ]


def _sampled(parents: Iterable[str | None]) -> list[SpanContext]:
    return [
        SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), is_remote=True, trace_flags=TraceFlags(0x01))
        for parent in _recorded(parents)
    ]


def _context_of(span_context: SpanContext) -> Context:
    parent: Span = trace.NonRecordingSpan(span_context)
    return trace.set_span_in_context(parent, Context())
