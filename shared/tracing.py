"""OpenTelemetry, where it is configured: spans of requests and their stages. Elsewhere it costs next to nothing.

It is on when `OTEL_EXPORTER_OTLP_ENDPOINT` or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT` is set and `OTEL_SDK_DISABLED`
isn't; the other `OTEL_*` variables mean what OpenTelemetry's documentation says.
"""

import contextlib
import os
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp

from shared.process import Fatal

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = "livez,readyz,health,metrics"

_tracer: Any = None


def is_configured() -> bool:
    """Whether the environment asks for traces."""
    disabled = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not disabled and any(os.environ.get(name) for name in ENDPOINTS)


def start(service: str) -> Callable[[], None]:
    """Send traces if the environment asks for it. Call what is returned before the process ends: it sends the rest.

    Raises `Fatal` when OpenTelemetry isn't installed.
    """
    global _tracer
    if not is_configured():
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


def traced(app: ASGIApp) -> ASGIApp:
    """`app` with a span for each request, in the caller's trace (`traceparent`); itself while tracing is off."""
    if _tracer is None:
        return app
    from opentelemetry.instrumentation.asgi import OpenTelemetryMiddleware

    return OpenTelemetryMiddleware(app, excluded_urls=UNTRACED, exclude_spans=["receive", "send"])


def span(name: str, **attributes: str | int | float) -> contextlib.AbstractContextManager[Any]:
    """A span around a stage of the current request; nothing while tracing is off."""
    if _tracer is None:
        return contextlib.nullcontext()
    found: contextlib.AbstractContextManager[Any] = _tracer.start_as_current_span(
        name, attributes={f"pairwright.{key}": value for key, value in attributes.items()}
    )
    return found
