"""Traces: OpenTelemetry spans, sent with OTLP over HTTP when OTEL_EXPORTER_OTLP_ENDPOINT is set.

Without it nothing is started and every call here returns at once; the W3C `traceparent` of a request travels into
logs and events all the same. Everything else about sampling and sending is set by OpenTelemetry's own variables
(https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware
from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor
from opentelemetry.instrumentation.sqlalchemy import SQLAlchemyInstrumentor
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, TraceFlags, Tracer, TraceState
from opentelemetry.util.types import Attributes
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.settings import ProcessSettings

# https://www.w3.org/TR/trace-context/#traceparent-header, version 00.
TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
# What services and monitoring ask each other: neither traced nor in the access log.
QUIET = ("/health/", "/metrics", "/internal/")
# Most links of a span, and most traces in which one step is told.
_LIMIT = 32


class _NoOrphans(Sampler):
    """Drops what a service does on its own account, like polling: a call to others is told as part of something."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(  # pylint: disable=too-many-arguments,too-many-positional-arguments  # as the interface has them
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        if kind is SpanKind.CLIENT and not trace.get_current_span(parent_context).get_span_context().is_valid:
            return SamplingResult(Decision.DROP)
        return self._inner.should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)

    def get_description(self) -> str:
        return f"NoOrphans({self._inner.get_description()})"


class _State:
    """What `start` has started in this process."""

    tracer: Tracer | None = None
    provider: TracerProvider | None = None


def start(settings: ProcessSettings) -> None:
    """Send spans from now on, if the settings say where."""
    if not settings.otel_exporter_otlp_endpoint:
        return
    resource = Resource.create(
        {
            "service.name": settings.service,
            "service.version": settings.app_version,
            "service.instance.id": settings.instance,
            "bank.track": settings.app_track,
        }
    )
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.sampler = _NoOrphans(provider.sampler)
    endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
    HTTPXClientInstrumentor().instrument(tracer_provider=provider)
    _State.provider, _State.tracer = provider, provider.get_tracer("bank")


def stop() -> None:
    """Send what has not been sent yet."""
    if _State.provider is not None:
        _State.provider.shutdown()


def traced_app(app: Any) -> Any:
    """Return the application with a span around each request of a client."""
    if _State.tracer is None:
        return app
    return OpenTelemetryMiddleware(
        app, excluded_urls=",".join(QUIET), exclude_spans=["receive", "send"], tracer_provider=_State.provider
    )


def trace_statements(engine: AsyncEngine) -> None:
    """Make a span of every statement that is part of a trace."""
    if _State.tracer is not None:
        # It names SQLAlchemy 2.0 as the last it knows; the tests show that it works with ours.
        SQLAlchemyInstrumentor().instrument(
            engine=engine.sync_engine, tracer_provider=_State.provider, skip_dep_check=True
        )


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
