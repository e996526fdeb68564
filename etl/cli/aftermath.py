"""Metrics, hooks and traces of a run that is over, also of a failed one (docs/promises.md §15)."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
import structlog

from etl.cli import render
from etl.cli.options import Common
from etl.config import Settings
from etl.errors import EtlError, WarehouseError, exit_code_of
from etl.stopping import Stop
from etl.sync.assignment import recall_division
from etl.sync.context import Request
from etl.sync.outcome import RunOutcome, sentence
from etl.sync.staleness import is_watched
from etl.telemetry import hooks, limits, metrics
from etl.telemetry.tracing import OFF, Trace, error_attributes, is_wanted
from etl.warehouse.opening import configured_warehouse
from etl.warehouse.overview import read_freshness

if TYPE_CHECKING:
    from concurrent.futures import Future

    from etl.telemetry.otlp import Exporter

F = TypeVar("F", bound=Callable[..., Any])
log = structlog.get_logger()

# A run has some 10 s from the signal to its end (see `signals`), and this is part of it.
_END_AFTER_STOP_SECONDS = 9.7
_LEAST_SECONDS = 0.5
# Of the time there is: when the warehouse is too slow, the run's own figures are still sent.
_SHARE_OF_READING = 0.6

_NOT_INSTALLED = "the extra otel is not installed: pip install 'bindings-etl[otel]'"


def metrics_option() -> Callable[[F], F]:
    """Return the option `--metrics-file`; a file that cannot be written fails no run."""
    return click.option(
        "--metrics-file",
        envvar="BINDINGS_ETL_METRICS_FILE",
        type=Path,
        metavar="PATH",
        help="Write the run's figures there, for Prometheus. Default: $BINDINGS_ETL_METRICS_FILE.",
    )


class _Ended(msgspec.Struct, frozen=True):
    """A run that is over, and until when others can be told of it."""

    document: dict[str, Any]
    exit_code: int
    error: Exception | None
    give_up_at: float

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.give_up_at - time.monotonic())


class Aftermath:
    """Reports one run to others; never fails the run, nor delays it by more than 5 seconds."""

    def __init__(self, common: Common, request: Request, metrics_file: Path | None) -> None:
        self._common = common
        self._request = request
        self._metrics_file = metrics_file
        self._exporter: Exporter | None = None
        self._trace: Trace | None = None
        self.settings: Settings | None = None
        """Known once the configuration is read."""
        self.stop = Stop()

    def begin(self) -> Trace:
        """Return the span of the run, which nobody records unless the environment asks for it."""
        self._trace = OFF
        if any(is_wanted(os.environ, kind) for kind in ("traces", "metrics")):
            try:
                self._trace = self._export()
            except ImportError:
                log.warning("telemetry.undelivered", target="otlp", reason=_NOT_INSTALLED)
            except Exception as failure:  # noqa: BLE001 - the run goes on without
                log.warning("telemetry.undelivered", target="otlp", reason=_reason(failure))
        return self._trace

    def of_run(self, outcome: RunOutcome, exit_code: int) -> None:
        """Tell what came of a run that began, and what the command ends with."""
        self._tell(outcome.as_json(), exit_code, None)

    def of_failure(self, error: Exception) -> None:
        """Tell of a run that could not begin, or that a fault of the program ended."""
        document = self._common.failed_run = render.failed_run(
            error,
            self._request.mode,
            self._common.started_at,
            dry_run=self._request.dry_run,
            run_group=self._request.run_group,
        )
        self._tell(document, exit_code_of(error), error)

    def _export(self) -> Trace:
        from etl.telemetry import otlp

        self._exporter = otlp.Exporter(os.environ)
        request = self._request
        return self._exporter.begin(
            "run",
            self._common.started_at,
            mode=request.mode,
            dry_run=request.dry_run,
            run_group=request.run_group,
        )

    def _tell(self, document: dict[str, Any], exit_code: int, error: Exception | None) -> None:
        give_up_at = time.monotonic() + self._seconds()
        ended = _Ended(document, exit_code, error, give_up_at)
        self._end_trace(ended)
        begun = {name: limits.start(work, name) for name, work in self._works(ended).items()}
        for name, promise in begun.items():
            try:
                promise.result(ended.seconds_left)
            except Exception as failure:  # noqa: BLE001 - no failure here changes the run's result
                log.warning("telemetry.undelivered", target=name, reason=_reason(failure))

    def _end_trace(self, ended: _Ended) -> None:
        trace = self.begin() if self._trace is None else self._trace
        status = ended.document["status"]
        trace.note(run_id=ended.document["run_id"], status=status, exit_code=ended.exit_code)
        if ended.error is not None:
            trace.note(**error_attributes(ended.error))
        failure = sentence(ended.error) if ended.error else f"{status}, exit code {ended.exit_code}"
        trace.end(failure if ended.exit_code else None)

    def _works(self, ended: _Ended) -> dict[str, Callable[[], None]]:
        exporter = self._exporter
        works: dict[str, Callable[[], None]] = {}
        if exporter is not None:
            works["otlp.traces"] = exporter.flush
        if self._request.dry_run:  # which writes nothing, and is not the run that others wait for
            return works
        sends = exporter is not None and exporter.exports_metrics
        if self._metrics_file is not None or sends:
            figures = limits.start(partial(self._figures, ended), "figures")
        if self._metrics_file is not None:
            works["metrics_file"] = partial(_write, self._metrics_file, figures)
        if exporter is not None and sends:
            works["otlp.metrics"] = lambda: exporter.send(figures.result())
        return works | self._hooks(ended)

    def _hooks(self, ended: _Ended) -> dict[str, Callable[[], None]]:
        if self.settings is None:
            return {}
        configured = self.settings.hooks
        event = "on_failure" if ended.exit_code else "on_success"
        urls = configured.on_failure if ended.exit_code else configured.on_success
        if not urls:
            return {}
        content = hooks.body(ended.document, ended.exit_code, configured.format)
        return {
            f"hooks.{event}[{place}]": partial(
                hooks.post, url.get_secret_value(), content, ended.seconds_left
            )
            for place, url in enumerate(urls)
        }

    def _seconds(self) -> float:
        requested_at = self.stop.requested_at
        if requested_at is None:
            return limits.LONGEST_SECONDS
        left = requested_at + _END_AFTER_STOP_SECONDS - time.monotonic()
        return min(limits.LONGEST_SECONDS, max(_LEAST_SECONDS, left))

    def _figures(self, ended: _Ended) -> list[metrics.Metric]:
        """Return the run's figures, and those of the warehouse if it answers in time."""
        lines: list[dict[str, Any]] = []
        # A warehouse that cannot be reached is not asked again.
        if self.settings is not None and not isinstance(ended.error, WarehouseError):
            seconds = ended.seconds_left * _SHARE_OF_READING
            try:
                read = partial(self._read, ended.document, seconds)
                lines = limits.within(seconds, read, "freshness")
            except Exception as failure:  # noqa: BLE001 - see above
                log.warning("freshness.unread", reason=_reason(failure))
        return metrics.figures(ended.document, ended.exit_code, lines)

    def _read(self, document: dict[str, Any], seconds: float) -> list[dict[str, Any]]:
        """Return the freshness of this shard's services; a collector takes no figure twice."""
        settings, request = self.settings, self._request
        assert settings is not None  # noqa: S101 - see `_figures`
        with configured_warehouse(settings, Stop(seconds), migrated=False) as warehouse:
            lines = warehouse.read(read_freshness)
            division = warehouse.read(lambda conn: recall_division(conn, settings, request))
        told = {entry["chat_service_sid"] for entry in document["services"]}
        return [
            line
            for line in lines
            if line["chat_service_sid"] in told
            or (
                is_watched(line)
                and division.takes(line["account"], line["chat_service_sid"])
                and request.is_about(line["account"], line["chat_service_sid"])
            )
        ]


def _write(path: Path, figures: "Future[list[metrics.Metric]]") -> None:
    metrics.write(path, metrics.render(figures.result()))


def _reason(error: Exception) -> str:
    """Return why it failed; of a foreign error only the class, since its text may hold a secret."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    is_ours = isinstance(error, EtlError | limits.Overdue | limits.Undelivered)
    return str(error) if is_ours else type(error).__name__
