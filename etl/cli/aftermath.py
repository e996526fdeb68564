"""What others are told once a run is over, whatever came of it (contract §5.15, §6)."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import structlog

from etl.cli import render
from etl.cli.options import Common
from etl.config import Settings
from etl.errors import EtlError, WarehouseError, exit_code_of
from etl.stopping import Stop
from etl.sync.context import Request
from etl.sync.outcome import RunOutcome
from etl.sync.staleness import is_watched
from etl.telemetry import hooks, limits, metrics
from etl.warehouse.connection import open_warehouse
from etl.warehouse.overview import read_freshness

if TYPE_CHECKING:
    from concurrent.futures import Future

F = TypeVar("F", bound=Callable[..., Any])
log = structlog.get_logger()

# A run has some 10 s from the signal to its end (see `signals`); what is told to others must fit in.
_END_AFTER_STOP_SECONDS = 9.7
_LEAST_SECONDS = 0.5
# Of the time there is, so that figures that the warehouse does not give in time cost only themselves.
_SHARE_OF_READING = 0.6


def metrics_option() -> Callable[[F], F]:
    """`--metrics-file PATH`; whether it can be written is seen when it is, and is no reason not to run."""
    return click.option(
        "--metrics-file",
        envvar="BINDINGS_ETL_METRICS_FILE",
        type=Path,
        metavar="PATH",
        help="Write the run's figures there, for Prometheus. Default: $BINDINGS_ETL_METRICS_FILE.",
    )


class Aftermath:
    """Tells what came of one run. Nothing here fails the run, or holds it up for more than 5 seconds."""

    def __init__(self, common: Common, request: Request, metrics_file: Path | None) -> None:
        self._common = common
        self._request = request
        self._metrics_file = metrics_file
        self.settings: Settings | None = None
        """Known once the configuration is read."""
        self.stop = Stop()

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

    def _tell(self, document: dict[str, Any], exit_code: int, error: Exception | None) -> None:
        if self._request.dry_run:  # which writes nothing, and is not the run that others wait for
            return
        give_up_at = time.monotonic() + self._seconds()
        begun = self._begin(document, exit_code, error, give_up_at)
        for name, promise in begun.items():
            try:
                promise.result(max(0, give_up_at - time.monotonic()))
            except Exception as failure:  # noqa: BLE001 - whatever it is, the run is over and stays as it was
                log.warning("telemetry.undelivered", target=name, reason=_reason(failure))

    def _begin(
        self,
        document: dict[str, Any],
        exit_code: int,
        error: Exception | None,
        give_up_at: float,
    ) -> "dict[str, Future[None]]":
        works: dict[str, Callable[[], None]] = {}
        if self._metrics_file is not None:
            # A warehouse that cannot be reached is not asked again.
            is_there = self.settings is not None and not isinstance(error, WarehouseError)
            works["metrics_file"] = partial(
                self._write_metrics, self._metrics_file, document, exit_code, give_up_at, is_there
            )
        works |= self._hooks(document, exit_code, give_up_at - time.monotonic())
        return {name: limits.start(work, name) for name, work in works.items()}

    def _hooks(
        self, document: dict[str, Any], exit_code: int, seconds: float
    ) -> dict[str, Callable[[], None]]:
        if self.settings is None:
            return {}
        configured = self.settings.hooks
        event = "on_failure" if exit_code else "on_success"
        urls = configured.on_failure if exit_code else configured.on_success
        content = hooks.body(document, exit_code, configured.format) if urls else b""
        return {
            f"hooks.{event}[{place}]": partial(hooks.post, url.get_secret_value(), content, seconds)
            for place, url in enumerate(urls)
        }

    def _seconds(self) -> float:
        requested_at = self.stop.requested_at
        if requested_at is None:
            return limits.LONGEST_SECONDS
        left = requested_at + _END_AFTER_STOP_SECONDS - time.monotonic()
        return min(limits.LONGEST_SECONDS, max(_LEAST_SECONDS, left))

    def _write_metrics(
        self,
        path: Path,
        document: dict[str, Any],
        exit_code: int,
        give_up_at: float,
        with_freshness: bool,
    ) -> None:
        freshness: list[dict[str, Any]] = []
        if with_freshness:
            seconds = (give_up_at - time.monotonic()) * _SHARE_OF_READING
            try:
                lines = limits.within(seconds, partial(self._read, seconds), "freshness")
                freshness = self._asked_for(lines, document)
            except Exception as failure:  # noqa: BLE001 - the figures of the run itself are written all the same
                log.warning("freshness.unread", reason=_reason(failure))
        metrics.write(path, metrics.render(metrics.figures(document, exit_code, freshness)))

    def _read(self, seconds: float) -> list[dict[str, Any]]:
        assert self.settings is not None  # noqa: S101 - see `_begin`
        stop = Stop(seconds)
        warehouse = open_warehouse(self.settings.warehouse, self.settings.retry, stop)
        try:
            return warehouse.read(read_freshness)
        finally:
            warehouse.close()

    def _asked_for(
        self, lines: list[dict[str, Any]], document: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """Of shards that run side by side, each tells of its own services only; a collector takes no figure twice."""
        read = {entry["chat_service_sid"] for entry in document["services"]}
        return [
            line
            for line in lines
            if line["chat_service_sid"] in read
            or (
                is_watched(line)
                and self._request.is_about(line["account"], line["chat_service_sid"])
            )
        ]


def _reason(error: Exception) -> str:
    """Our own words are told, and the operating system's; of anything else only the class, since its text may hold a secret."""
    if isinstance(error, TimeoutError):
        return "it took too long and was left behind"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    is_ours = isinstance(error, EtlError | limits.Overdue | hooks.Undelivered)
    return str(error) if is_ours else type(error).__name__
