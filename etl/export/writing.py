"""One export: what changed is read in one snapshot and becomes a folder of files."""

from collections.abc import Callable, Iterable
from datetime import datetime
from importlib.metadata import version
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa
import structlog

from etl.errors import ConfigurationError
from etl.export.folder import MeasuredFile, made_whole, require_free
from etl.export.formats import Format, Rows, Sheet, sheets
from etl.stopping import Stop
from etl.warehouse import exporting, migration
from etl.warehouse.connection import Warehouse
from etl.warehouse.exporting import Since

log = structlog.get_logger()

_ROWS_A_FILE = 1_000_000


class Order(msgspec.Struct, frozen=True):
    """What is to be exported, and where to."""

    out: Path
    since: Since
    since_as_given: str | None
    format: Format


def export(warehouse: Warehouse, order: Order, stop: Stop) -> dict[str, Any]:
    """Write the folder; returns its manifest.

    Raises:
        ConfigurationError: the folder cannot be made, or there is no such run; nothing was written.
        Interrupted: it was told to stop; nothing was written.
    """
    make_sheet = sheets(order.format)
    require_free(order.out)
    warehouse.read(migration.require_head)

    def write(conn: sa.Connection) -> dict[str, Any]:
        now = warehouse.engine.now(conn)
        # Asked for before the rows, so that it holds where an engine has no snapshot.
        until = exporting.find_next(conn, now)
        _require_known(conn, order.since, now)
        with made_whole(order.out) as folder:
            files = _write_files(
                exporting.iterate(conn, order.since), folder, order, make_sheet, stop
            )
            manifest = _manifest(order, until, now, files)
            _write_manifest(folder, manifest)
            stop.check()
        return manifest

    manifest = warehouse.read(write, snapshot=True)
    log.info("export.written", rows=manifest["rows"], files=len(manifest["files"]))
    return manifest


def _require_known(conn: sa.Connection, since: Since, now: datetime) -> None:
    newest = exporting.newest_run(conn)
    if since.run_id is not None and since.run_id > newest + 1:
        raise ConfigurationError(
            f"--since {since.run_id}: the newest run is {newest}; if the warehouse was restored "
            "from a backup, export without --since"
        )
    if since.moment is not None and since.moment > now:
        raise ConfigurationError(
            f"--since {since.moment:%Y-%m-%dT%H:%M:%SZ} is later than the warehouse's clock"
        )


def _write_files(
    batches: Iterable[Rows],
    folder: Path,
    order: Order,
    make_sheet: Callable[[MeasuredFile], Sheet],
    stop: Stop,
) -> list[dict[str, Any]]:
    """Write the files, at least one, so that whoever loads `bindings-*` always finds one."""
    numbers, files = count(1), []
    volume = _Volume(folder, order.format, next(numbers), make_sheet)
    for rows in batches:
        stop.check()
        if volume.rows and volume.rows + len(rows) > _ROWS_A_FILE:
            files.append(volume.finish())
            volume = _Volume(folder, order.format, next(numbers), make_sheet)
        volume.write(rows)
    return [*files, volume.finish()]


class _Volume:
    """One file of an export."""

    def __init__(
        self,
        folder: Path,
        format_: Format,
        number: int,
        make_sheet: Callable[[MeasuredFile], Sheet],
    ) -> None:
        self.rows = 0
        self._file = MeasuredFile(folder / f"bindings-{number:05}.{format_}")
        self._sheet = make_sheet(self._file)

    def write(self, rows: Rows) -> None:
        self._sheet.write(rows)
        self.rows += len(rows)

    def finish(self) -> dict[str, Any]:
        self._sheet.close()
        self._file.close()
        measured = {"bytes": self._file.bytes, "sha256": self._file.sha256}
        return {"name": self._file.name, "rows": self.rows, **measured}


def _manifest(
    order: Order, until: int, now: datetime, files: list[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "since": order.since_as_given,
        "until": str(until),
        "format": order.format,
        "exported_at": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "version": version("bindings-etl"),
        "rows": sum(file["rows"] for file in files),
        "files": files,
    }


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    file = MeasuredFile(folder / "manifest.json")
    file.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    file.close()
