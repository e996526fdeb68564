"""Whose the files in a folder are: a small file beside them names the catalog that knows them.

What a catalog does not know it deletes (`reclaiming`): in a folder of two catalogs, the rows of the
other. And of two copies of a catalog each deletes what it has compacted, which the other needs.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb

from etl.errors import ConfigurationError
from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.ducklake.attaching import (
    BUCKET,
    LAKE,
    Place,
    is_made,
    literal,
    unwritable,
)
from etl.warehouse.engines.reaching import Unreached

MARK = "bindings-etl-catalog.csv"
_BESIDE = "the file that this folder is named for"
_METADATA = f"__ducklake_metadata_{LAKE}"
_UUID = f"SELECT schema_uuid FROM {_METADATA}.ducklake_schema ORDER BY schema_id LIMIT 1"  # noqa: S608
_DATABASE = "SELECT oid FROM pg_database WHERE datname = current_database()"
# Restored elsewhere, a database may get the same number; a managed server may lack the function.
_MAY_ASK = "SELECT has_function_privilege(to_regprocedure('pg_control_system()'), 'EXECUTE')"
_CLUSTER = "SELECT system_identifier FROM pg_control_system()"


def require_free(session: Any, place: Place) -> None:
    """Look whether the folder of a catalog that is yet to be made is nobody's.

    Raises:
        ConfigurationError: it is another catalog's.
        WarehouseRefused: it cannot be looked at.
    """
    folder = place.named_folder or place.usual_folder
    if folder is None or is_made(session, place):
        return
    of_its_like = {None, _BESIDE} if folder == place.usual_folder else {None}
    try:
        if _read_mark(session, folder) not in of_its_like:
            raise _taken(folder)
        _require_apart(session, folder)
    except Unreached as cause:
        raise unwritable(folder, cause.code) from None


def require_own(session: Any, place: Place, folder: str, *, claim: bool) -> None:
    """Look whether the folder is the attached catalog's; with `claim`, mark it if it is nobody's.

    Raises:
        ConfigurationError: they are another catalog's, or with `claim`, those of a folder below or
            above it are.
        WarehouseRefused: it cannot be marked.
        Unreached: it cannot be looked at.
    """
    name = _name_catalog(session, place, folder)
    mark = _read_mark(session, folder)
    if mark not in (None, name):
        raise _taken(folder)
    if claim:
        _require_apart(session, folder)
    if claim and mark is None:
        _write_mark(session, folder, name)


def _name_catalog(session: Any, place: Place, folder: str) -> str:
    """Return what tells the catalog from others, and from copies of itself."""
    if folder.rstrip("/") == place.usual_folder:
        return _BESIDE  # they may move together
    try:
        (uuid,) = session.execute(_UUID).fetchone()
        if not place.is_file:
            return f"{uuid} {_name_database(session)}"
    except duckdb.Error as error:
        raise Unreached(DbErrorKind.LOST, type(error).__name__) from error
    file = os.path.realpath(str(place.url.database))
    where = file if place.is_bucket else os.path.relpath(file, os.path.realpath(folder))
    return f"{uuid} {where}"


def _name_database(session: Any) -> str:
    def ask(query: str) -> Any:
        rows = session.execute("FROM postgres_query(?, ?)", [_METADATA, query]).fetchall()
        return rows[0][0]

    cluster = ask(_CLUSTER) if ask(_MAY_ASK) else "unknown"
    return f"database {ask(_DATABASE)} of cluster {cluster}"


def _read_mark(session: Any, folder: str) -> str | None:
    """Return what the folder says of its catalog; None where it says nothing."""
    try:
        # As a pattern it is looked for, even in a bucket.
        found = _find(session, f"{folder.rstrip('/')}/{MARK[:-1]}[{MARK[-1]}]")
        if not found:
            return None
        read = "SELECT * FROM read_csv(?, header = true, all_varchar = true)"
        row = session.execute(read, found).fetchone()
    except duckdb.Error as error:
        raise Unreached(DbErrorKind.LOST, type(error).__name__) from error
    return str(row[0]) if row else None


def _write_mark(session: Any, folder: str, name: str) -> None:
    mark = f"{folder.rstrip('/')}/{MARK}"
    try:
        session.execute(f"COPY (SELECT {literal(name)} AS catalog) TO {literal(mark)} (FORMAT csv)")
    except duckdb.Error as error:
        raise unwritable(folder, type(error).__name__) from None


def _require_apart(session: Any, folder: str) -> None:
    """Raise if a folder below or above this one is marked: deleting goes all the way down."""
    own = folder.rstrip("/")
    try:
        marked = [_folder_of(file) for file in _find(session, f"{own}/**/{MARK}")]
    except duckdb.Error as error:
        raise Unreached(DbErrorKind.LOST, type(error).__name__) from error
    for above in _above(own):
        with suppress(duckdb.Error):  # of a bucket one may be allowed to see a part
            marked += _find(session, f"{above}/{MARK[:-1]}[{MARK[-1]}]") and [above]
    for other in marked:
        if other != own:
            raise _taken(other)


def _find(session: Any, pattern: str) -> list[str]:
    """Return the files whose names fit a pattern."""
    found = session.execute("SELECT file FROM glob(?)", [pattern]).fetchall()
    return [str(file) for (file,) in found]


def _folder_of(file: str) -> str:
    return file.rpartition("/")[0]


def _above(folder: str) -> list[str]:
    """Return the folders that this one is in, up to the bucket's."""
    if not folder.startswith(BUCKET):
        return [str(one).rstrip("/") for one in Path(folder).parents]
    bucket, *parts = folder.removeprefix(BUCKET).split("/")
    return ["/".join((f"{BUCKET}{bucket}", *parts[:depth])) for depth in range(len(parts))]


def _taken(folder: str) -> ConfigurationError:
    return ConfigurationError(
        f"warehouse.data_path: {folder} has the files of another catalog, and to purge the one "
        "would delete rows of the other; name a folder apart from it, or, if this catalog has "
        f"taken the other's place, delete {folder.rstrip('/')}/{MARK}"
    )
