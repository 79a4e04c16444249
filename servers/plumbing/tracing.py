"""Sends the SDK's spans to a collector, where OTEL_EXPORTER_OTLP_ENDPOINT names one."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from servers.plumbing.patience import ticks

logger = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
LAST_WORDS = 2.0
"""Seconds that the collector has for what is left when the server stops."""


@contextmanager
def tracing(name: str) -> Iterator[None]:
    """While open, spans of the process are sent as those of the service `name`."""
    if not any(os.environ.get(variable) for variable in ENDPOINTS):
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace import set_tracer_provider
    except ImportError:
        logger.warning("no traces are sent: pip install 'mcpcp[otel]' brings what does")
        yield
        return
    provider = TracerProvider(
        resource=Resource.create({"service.name": name}), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    set_tracer_provider(provider)
    try:
        yield
    finally:
        sending = threading.Thread(target=provider.shutdown, daemon=True)
        sending.start()
        for tick in ticks(LAST_WORDS):
            sending.join(tick)
            if not sending.is_alive():
                break
