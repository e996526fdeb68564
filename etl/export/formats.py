"""Rows of the warehouse as Parquet or as lines of JSON; both have the same columns."""

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, Literal, Protocol

import msgspec

from etl.errors import ConfigurationError
from etl.export.folder import MeasuredFile
from etl.warehouse.exporting import COLUMNS

Format = Literal["parquet", "jsonl"]
Rows = Sequence[Sequence[Any]]

_TIMES = ("date_created", "date_updated", "first_seen_at", "changed_at", "deleted_at")
_LIST = COLUMNS.index("message_types")
# Engines read a file group by group, and small groups slowly; they are built in memory.
_ROWS_A_GROUP = 50_000
# A service has a handful of different lists of types.
_LISTS_KEPT = 1_000


class Sheet(Protocol):
    """A file that takes rows."""

    def write(self, rows: Rows) -> None:
        """Append a batch."""

    def close(self) -> None:
        """Write what comes last; the file itself stays open."""


def sheets(format_: Format) -> Callable[[MeasuredFile], Sheet]:
    """Return the writer class of this format.

    Raises:
        ConfigurationError: its package is not installed.
    """
    return _parquet() if format_ == "parquet" else _JsonLines


class _JsonLines:
    def __init__(self, file: MeasuredFile) -> None:
        self._file = file
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: Rows) -> None:
        lines = self._encoder.encode_lines([_as_object(row) for row in rows])
        self._file.write(lines)

    def close(self) -> None:
        pass


def _as_object(row: Sequence[Any]) -> dict[str, Any]:
    values = dict(zip(COLUMNS, row, strict=True))
    if (types := row[_LIST]) is not None:
        values["message_types"] = msgspec.Raw(types.encode())
    return values


def _parquet() -> Callable[[MeasuredFile], Sheet]:
    try:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter
    except ImportError:
        raise ConfigurationError(
            "--format parquet needs another package: pip install 'bindings-etl[export]', "
            "or take --format jsonl"
        ) from None
    kinds = {
        **dict.fromkeys(COLUMNS, pa.string()),
        **dict.fromkeys(_TIMES, pa.timestamp("us", tz="UTC")),
        "message_types": pa.list_(pa.string()),
        "run_id": pa.int64(),
    }
    schema = pa.schema([pa.field(name, kinds[name]) for name in COLUMNS])

    class Parquet:
        def __init__(self, file: MeasuredFile) -> None:
            # Snappy: every engine reads it.
            self._writer = ParquetWriter(file, schema, compression="snappy")
            self._batches: list[Any] = []

        def write(self, rows: Rows) -> None:
            columns = list(zip(*rows, strict=True))
            columns[_LIST] = tuple(map(_as_list, columns[_LIST]))
            arrays = [
                pa.array(column, kind) for column, kind in zip(columns, schema.types, strict=True)
            ]
            self._batches.append(pa.record_batch(arrays, schema=schema))
            if sum(batch.num_rows for batch in self._batches) >= _ROWS_A_GROUP:
                self._write_group()

        def close(self) -> None:
            self._write_group()
            self._writer.close()

        def _write_group(self) -> None:
            self._writer.write_table(pa.Table.from_batches(self._batches, schema))
            self._batches.clear()

    return Parquet


@lru_cache(maxsize=_LISTS_KEPT)
def _as_list(text: str | None) -> list[str] | None:
    return None if text is None else msgspec.json.decode(text, type=list[str])
