"""What engines share whose warehouse is one file on this machine."""

from contextlib import AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import ClassVar

import sqlalchemy as sa

from etl.warehouse.engines.base import Engine


class FileEngine(Engine):
    """An engine that works in this process, and by its clock."""

    url_form: ClassVar[str] = (
        "names no file; write {engine}:/// and its path "
        "(a database in memory would end with the run)"
    )
    single_writer: ClassVar[bool] = True

    def accepts(self, url: sa.URL) -> bool:
        has_server = url.username is not None or url.host is not None or url.port is not None
        in_memory = "memory" in url.normalized_query.get("mode", ())
        file = url.database or ""
        return bool(file) and not file.startswith(":memory:") and not has_server and not in_memory

    def file_of(self, url: sa.URL) -> str | None:
        return url.database

    def migration_lock(self, conn: sa.Connection) -> AbstractContextManager[None]:
        return nullcontext()

    def why_unfit(self, conn: sa.Connection) -> str | None:
        return None

    def now(self, conn: sa.Connection) -> datetime:
        return datetime.now(UTC)
