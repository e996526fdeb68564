"""Traces and metrics over OTLP/HTTP, by OpenTelemetry's SDK and its standard variables.

Loaded only where these variables ask for it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from importlib.metadata import version
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, MetricExportResult
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult

from etl.telemetry.limits import Undelivered
from etl.telemetry.metrics import Metric
from etl.telemetry.tracing import OFF, Attributes, Trace, error_attributes, error_text, is_wanted

T = TypeVar("T")

_PROTOCOL = "http/protobuf"
# What spans below a span are about as well.
_INHERITED = ("account", "chat_service_sid")


class Exporter:
    """Sends to the collector that the environment names; a thread of the SDK sends spans."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        _require_http(environment)
        # What the SDK logs names addresses, and stands beside our own warning.
        logger = logging.getLogger("opentelemetry")
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
        name = environment.get("OTEL_SERVICE_NAME") or "bindings-etl"
        self._resource = Resource.create(
            {SERVICE_NAME: name, SERVICE_VERSION: version("bindings-etl")}
        )
        self.exports_metrics = is_wanted(environment, "metrics")
        self._spans = _Watched(OTLPSpanExporter()) if is_wanted(environment, "traces") else None
        self._provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        if self._spans:
            spans: Any = self._spans
            self._provider.add_span_processor(BatchSpanProcessor(spans))

    def begin(self, name: str, began_at: datetime, **attributes: Any) -> Trace:
        """Begin a span that stands below none."""
        if not self._spans:
            return OFF
        tracer = self._provider.get_tracer("bindings-etl", version("bindings-etl"))
        began = int(began_at.timestamp() * 1e9)
        return _Recorded(tracer, None, name, began, attributes)

    def flush(self) -> None:
        """Send what spans are left.

        Raises:
            Undelivered: the collector did not take them all.
        """
        self._provider.shutdown()
        if self._spans and self._spans.has_failed:
            raise Undelivered("the collector did not take the spans")

    def send(self, metrics: Iterable[Metric]) -> None:
        """Send figures.

        Raises:
            Undelivered: the collector did not take them.
        """
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], self._resource, shutdown_on_exit=False)
        meter = provider.get_meter("bindings-etl", version("bindings-etl"))
        for metric in metrics:
            gauge = meter.create_gauge(metric.name, description=metric.help)
            for labels, value in metric.values.items():
                gauge.set(value, dict(labels))
        exporter: Any = OTLPMetricExporter()
        if exporter.export(reader.get_metrics_data()) is not MetricExportResult.SUCCESS:
            raise Undelivered("the collector did not take the figures")


def _require_http(environment: Mapping[str, str]) -> None:
    names = [f"OTEL_EXPORTER_OTLP_{kind}PROTOCOL" for kind in ("", "TRACES_", "METRICS_")]
    for name in names:
        if environment.get(name, _PROTOCOL) not in ("", _PROTOCOL):
            raise Undelivered(f"{name} names a protocol that is not spoken; set it to {_PROTOCOL}")


class _Watched:
    """A span exporter, and whether it ever failed: the SDK keeps that to itself."""

    def __init__(self, exporter: Any) -> None:
        self._exporter = exporter
        self.has_failed = False

    def export(self, spans: Any) -> Any:
        result = self._exporter.export(spans)
        self.has_failed |= result is not SpanExportResult.SUCCESS
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return bool(self._exporter.force_flush(timeout_millis))


class _Recorded(Trace):
    """A recorded span; its parent is passed on, since a scan's pages are read in other threads."""

    def __init__(
        self,
        tracer: trace.Tracer,
        context: Any,
        name: str,
        began: int | None,
        attributes: Attributes,
    ) -> None:
        self._tracer = tracer
        self._inherited = {key: attributes[key] for key in _INHERITED if key in attributes}
        self._span = tracer.start_span(name, context or Context(), start_time=began)
        self._context = trace.set_span_in_context(self._span, Context())
        self.note(**attributes)

    def child(self, name: str, **attributes: Any) -> Trace:
        return self._child(name, None, attributes)

    def follow(
        self, name: str, steps: Iterator[T], told_of: Callable[[T], Attributes]
    ) -> Iterator[T]:
        while True:
            began = time.time_ns()
            try:
                step = next(steps)
            except StopIteration:
                return
            except Exception as error:
                failed = self._child(name, began, error_attributes(error))
                failed.end(error_text(error))
                raise
            self._child(name, began, told_of(step)).end()
            yield step

    def note(self, **attributes: Any) -> None:
        self._span.set_attributes(
            {name: value for name, value in attributes.items() if value is not None}
        )

    def end(self, failure: str | None = None) -> None:
        if failure is not None:
            self._span.set_status(trace.Status(trace.StatusCode.ERROR, failure))
        self._span.end()

    def _child(self, name: str, began: int | None, attributes: Attributes) -> "_Recorded":
        return _Recorded(
            self._tracer, self._context, name, began, {**self._inherited, **attributes}
        )
