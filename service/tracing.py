"""Traces from a request to its pair, with OpenTelemetry, for those who collect them.

On if OTEL_EXPORTER_OTLP_ENDPOINT (or …_TRACES_ENDPOINT) is set and the extra `tracing` installed.
Otherwise nothing of OpenTelemetry is imported here, and all of this does nothing. A job carries its
request's context through the queue as a W3C `traceparent`.
"""

import os
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog
from structlog.typing import EventDict, WrappedLogger

if TYPE_CHECKING:
    from fastapi import FastAPI
    from opentelemetry.sdk.trace import TracerProvider

EXCLUDED_URLS = r"health/,metrics"
"""Routes that are asked every few seconds by nobody in particular."""

log = structlog.get_logger()

_provider: "TracerProvider | None" = None


def configure(name: str) -> None:
    """Called once, by a command. All further settings are OpenTelemetry's own OTEL_… variables.

    name: what the process is called in traces, unless OTEL_SERVICE_NAME says otherwise.
    """
    if endpoint() is None:
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("no traces: prefstream[tracing] is not installed", endpoint=endpoint())
        return
    os.environ.setdefault("OTEL_SERVICE_NAME", name)
    os.environ.setdefault("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/protobuf")  # for vLLM
    provider = TracerProvider(resource=Resource.create())
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint())))
    set_provider(provider)  # it sends what is left when the process exits


def endpoint() -> str | None:
    """Where traces are sent, by HTTP. None: they are not asked for."""
    if traces := os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return traces
    base = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    return f"{base.rstrip('/')}/v1/traces" if base else None


def set_provider(provider: "TracerProvider | None") -> None:
    """From now on, spans go there; None: nowhere."""
    global _provider
    _provider = provider


def instrument(app: "FastAPI") -> None:
    """A span for each request."""
    if _provider is None:
        return
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor

    FastAPIInstrumentor.instrument_app(
        app,
        tracer_provider=_provider,
        excluded_urls=EXCLUDED_URLS,
        exclude_spans=["send", "receive"],
    )


def headers() -> dict[str, str]:
    """The current span, as what goes along with a request to others; empty without one."""
    if _provider is None:
        return {}
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier: dict[str, str] = {}
    TraceContextTextMapPropagator().inject(carrier)
    return carrier


def traceparent() -> str:
    """The current span in 55 characters; empty without one."""
    return headers().get("traceparent", "")


@contextmanager
def span(name: str, parent: str = "", **attributes: str | int) -> Generator[None]:
    """What the block does, as a span below `parent`, or below the current one. An exception that
    leaves the block marks it as failed. A `parent` that is no traceparent is passed over."""
    if _provider is None:
        yield
        return
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    context = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
    named = {f"prefstream.{key}": value for key, value in attributes.items()}
    tracer = _provider.get_tracer("prefstream")
    with tracer.start_as_current_span(name, context, attributes=named):
        yield


def add_trace_ids(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """For structlog: tells which trace a line belongs to."""
    if parent := traceparent():
        _, event["trace_id"], event["span_id"], _ = parent.split("-")
    return event
