"""OpenTelemetry, where it is configured: spans of requests, jobs and rounds. Elsewhere it costs next to nothing.

It is on when `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set and `OTEL_SDK_DISABLED`
isn't. Between processes a span's place travels as W3C Trace Context's `traceparent`.
"""

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from shared.errors import Fatal

if TYPE_CHECKING:  # the trainer has no web framework
    from starlette.types import ASGIApp

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
CARRIER = "TRACEPARENT"
"""The environment variable by which a child process gets its parent span, as OpenTelemetry's specification names it."""
MAX_LINKS = 128
"""OpenTelemetry's own limit of links a span."""

_tracer: Any = None


def start(service: str) -> Callable[[], None]:
    """Send traces if the environment asks for it. Call what is returned before the process ends: it sends the rest.

    Raises `Fatal` when OpenTelemetry isn't installed.
    """
    global _tracer
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if is_disabled or not any(os.environ.get(name) for name in ENDPOINTS):
        return lambda: None
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise Fatal(
            f"OTEL_EXPORTER_OTLP_ENDPOINT asks for traces, but {error.name} isn't installed: "
            "pip install opentelemetry-sdk opentelemetry-exporter-otlp-proto-http opentelemetry-instrumentation-asgi"
        ) from None
    provider = TracerProvider(resource=Resource.create({"service.name": f"pairwright-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("pairwright")
    return provider.shutdown


def traced(app: "ASGIApp") -> "ASGIApp":
    """`app` with a span for each request, in the caller's trace (`traceparent`); itself while tracing is off."""
    if _tracer is None:
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    untraced = "livez,readyz,health,metrics"
    return OpenTelemetryMiddleware(app, excluded_urls=untraced, exclude_spans=["receive", "send"])


def span(
    name: str, *, parent: str | None = None, links: Sequence[str] = (), **attributes: str | int | float | None
) -> contextlib.AbstractContextManager[Any]:
    """A span around what is done inside; nothing while tracing is off.

    It is a child of `parent` (a traceparent), or of the span that is open here, or begins a trace. `links` are the
    traceparents of other spans that it has to do with, at most `MAX_LINKS`. Attributes that are None are left out.
    """
    if _tracer is None:
        return contextlib.nullcontext()
    from opentelemetry.trace import Link, get_current_span

    linked = [get_current_span(_context(link)).get_span_context() for link in links[-MAX_LINKS:]]
    opened: contextlib.AbstractContextManager[Any] = _tracer.start_as_current_span(
        name,
        context=None if parent is None else _context(parent),
        links=[Link(context) for context in linked if context.is_valid],
        attributes={f"pairwright.{key}": value for key, value in attributes.items() if value is not None},
    )
    return opened


def set_attributes(**attributes: str | int | float) -> None:
    """Add attributes to the span that is open here."""
    if _tracer is not None:
        from opentelemetry.trace import get_current_span

        get_current_span().set_attributes({f"pairwright.{key}": value for key, value in attributes.items()})


def traceparent() -> str | None:
    """Of the span that is open here, for whoever goes on with its work; None without one."""
    if _tracer is None:
        return None
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    TraceContextTextMapPropagator().inject(carrier := dict[str, str]())
    return carrier.get("traceparent")


def current_ids() -> dict[str, str]:
    """`trace_id` and `span_id` of the span that is open here, in hexadecimal digits; {} without one."""
    parts = (traceparent() or "").split("-")
    return {"trace_id": parts[1], "span_id": parts[2]} if len(parts) == 4 else {}


def _context(traceparent: str) -> Any:
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract({"traceparent": traceparent}, Context())
