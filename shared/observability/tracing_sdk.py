"""Recording and export of spans with the OpenTelemetry SDK; imported only if spans are exported."""

from collections.abc import Sequence
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
from opentelemetry.trace import Link, SpanKind, TraceState
from opentelemetry.util.types import Attributes
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.runtime.settings import ProcessSettings


class _NoOrphans(Sampler):
    """Drops client spans without a parent, such as polling by background tasks."""

    def __init__(self, inner: Sampler) -> None:
        self._inner = inner

    def should_sample(  # pylint: disable=too-many-arguments,too-many-positional-arguments  # defined by the interface
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


class Recorder:
    """Records and exports spans of requests, SQL statements and outgoing calls."""

    def __init__(self, settings: ProcessSettings) -> None:
        resource = Resource.create(
            {
                "service.name": settings.service,
                "service.version": settings.app_version,
                "service.instance.id": settings.instance,
                "bank.track": settings.app_track,
            }
        )
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.sampler = _NoOrphans(self._provider.sampler)
        endpoint = f"{settings.otel_exporter_otlp_endpoint.rstrip('/')}/v1/traces"
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        HTTPXClientInstrumentor().instrument(tracer_provider=self._provider)
        self.tracer = self._provider.get_tracer("bank")

    def stop(self) -> None:
        """Export the remaining spans."""
        self._provider.shutdown()

    def traced_app(self, app: Any, quiet: Sequence[str]) -> Any:
        """Wrap the application so that each request gets a span, except those of the quiet paths."""
        return OpenTelemetryMiddleware(
            app, excluded_urls=",".join(quiet), exclude_spans=["receive", "send"], tracer_provider=self._provider
        )

    def trace_statements(self, engine: AsyncEngine) -> None:
        """Create a span for every SQL statement of an engine."""
        # It declares support up to SQLAlchemy 2.0; the tests cover the version in use.
        SQLAlchemyInstrumentor().instrument(
            engine=engine.sync_engine, tracer_provider=self._provider, skip_dep_check=True
        )
