"""How a lake is attached to DuckDB, and why one cannot be."""

import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import sqlalchemy as sa

from etl.errors import ConfigurationError, WarehouseError, WarehouseOutdated, WarehouseRefused
from etl.warehouse.engines.base import DbErrorKind
from etl.warehouse.engines.reaching import Unreached, reach

LAKE = "lake"
_CATALOG = "catalog"
_FORMAT = "1.0"
_DEFAULT_PORT = 5432
_INSTALL = "pip install 'bindings-etl[ducklake]'"


@dataclass(frozen=True)
class Place:
    """Where a lake is."""

    url: sa.URL
    """Of the catalog: a DuckDB file, or a database in PostgreSQL."""
    data_path: str | None
    schema: str | None
    patience: float
    """Seconds to wait for the catalog's server."""

    @property
    def is_file(self) -> bool:
        """Whether the catalog is a file, which one process has for itself."""
        return self.url.get_driver_name() == "duckdb"

    @property
    def data_folder(self) -> str | None:
        """Where files go when nobody has said it: beside a catalog that is a file."""
        if self.data_path is None:
            return f"{Path(str(self.url.database)).absolute()}.files" if self.is_file else None
        is_local = "://" not in self.data_path
        return str(Path(self.data_path).absolute()) if is_local else self.data_path

    def catalog(self, login: Mapping[str, str]) -> str:
        """Return what names the catalog's database to DuckDB, without its kind."""
        if self.is_file:
            return str(self.url.database)
        known = {
            "host": self.url.host,
            "port": self.url.port,
            "dbname": self.url.database,
            "user": self.url.username,
            "password": self.url.password,
            "connect_timeout": max(2, round(self.patience)),
            **self.url.query,
            **login,
        }
        return " ".join(f"{name}={_quoted(value)}" for name, value in known.items() if value)


def load_extensions(session: Any, place: Place) -> None:
    """Load what DuckDB needs, from files that Python packages have brought.

    Raises:
        ConfigurationError: a package is missing, or is for another version of DuckDB.
    """
    names = ["ducklake"] if place.is_file else ["ducklake", "postgres_scanner"]
    for name in names:
        session.execute(f"LOAD {_literal(str(extension_file(name)))}")


def extension_file(name: str) -> Path:
    """Return the file of an extension that fits the DuckDB which is installed.

    Raises:
        ConfigurationError: there is none.
    """
    package = importlib.util.find_spec(f"duckdb_extension_{name}")
    if package is None or package.origin is None:
        raise ConfigurationError(f"DuckLake needs DuckDB's extension {name}: {_INSTALL}")
    folder = Path(package.origin).parent / "extensions"
    file = folder / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not file.exists():
        versions = ", ".join(sorted(one.name.removeprefix("v") for one in folder.glob("v*")))
        raise ConfigurationError(
            f"DuckDB {duckdb.__version__} is installed, and its extension {name} is for "
            f"{versions}; put together what fits: {_INSTALL}"
        )
    return file


def attach(session: Any, place: Place, login: Mapping[str, str], *, create: bool) -> None:
    """Attach the lake and go into it; make its catalog where it is missing and that is allowed.

    Raises:
        Unreached, WarehouseError, ConfigurationError: it cannot be done.
    """
    catalog = place.catalog(login)
    kind = "" if place.is_file else "postgres:"
    options = [f"CREATE_IF_NOT_EXISTS {str(create).lower()}"]
    if create:
        _require_writable(place)
    if folder := place.data_folder:
        options.append(f"DATA_PATH {_literal(folder)}")
        # Beside a catalog that is a file, its files may have moved with it.
        options.append(f"OVERRIDE_DATA_PATH {str(place.data_path is None).lower()}")
    try:
        session.execute(
            f"ATTACH IF NOT EXISTS {_literal(f'ducklake:{kind}{catalog}')} AS {LAKE} "
            f"({', '.join(options)})"
        )
    except duckdb.Error as error:
        raise _why_not(session, place, catalog, type(error).__name__) from None


def _why_not(session: Any, place: Place, catalog: str, code: str) -> Exception:
    """Return why a lake could not be attached, found out by a look at its catalog.

    DuckDB tells it in words only, with values of the connection in them.
    """
    try:
        settings = _read_settings(session, place, catalog)
    except duckdb.Error as error:
        return _why_closed(place, type(error).__name__)
    if not settings:
        return _why_empty(place)
    if settings.get("version") != _FORMAT:
        return WarehouseRefused(
            f"the catalog is written in DuckLake's format {settings.get('version')}, and this "
            f"program writes {_FORMAT}; upgrade bindings-etl, or use the catalog of before"
        )
    stored = settings.get("data_path", "").rstrip("/")
    if place.data_path and stored != str(place.data_folder).rstrip("/"):
        return ConfigurationError(
            f"warehouse.data_path: the catalog has its files in {stored}; "
            "write that, or leave it null"
        )
    return Unreached(DbErrorKind.OTHER, code)


def _read_settings(session: Any, place: Place, catalog: str) -> dict[str, str]:
    """Return what the catalog's database says of the lake; nothing where there is none."""
    kind = "" if place.is_file else "TYPE postgres, "
    session.execute(f"ATTACH {_literal(catalog)} AS {_CATALOG} ({kind}READ_ONLY)")
    try:
        found = session.execute(
            f"SELECT key, value FROM {_CATALOG}.ducklake_metadata WHERE scope IS NULL"  # noqa: S608
        )
        return dict(found.fetchall())
    except duckdb.CatalogException:
        return {}
    finally:
        session.execute(f"DETACH {_CATALOG}")


def _why_closed(place: Place, code: str) -> Exception:
    if place.is_file:
        return Unreached(DbErrorKind.LOCKED, code)
    host = str(place.url.query.get("host") or place.url.host or "localhost")
    port = place.url.port or _DEFAULT_PORT
    try:
        where = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else host
        reach(where, port, place.patience).close()
    except Unreached as unreached:
        return unreached
    return Unreached(DbErrorKind.LOGIN, code)


def _why_empty(place: Place) -> WarehouseError | ConfigurationError:
    if not place.is_file and place.data_path is None:
        return ConfigurationError(
            "warehouse.data_path: a catalog in PostgreSQL that is new has to know where its files "
            "go; name a folder, or s3://…"
        )
    return WarehouseOutdated("the warehouse has no tables yet; run `bindings-etl migrate`")


def _require_writable(place: Place) -> None:
    """Make the folder of the data, and try to write into it.

    Raises:
        WarehouseRefused: it cannot be written.
    """
    folder = place.data_folder
    if folder is None or "://" in folder:
        return
    trial = Path(folder) / "trial"
    try:
        trial.parent.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError as cause:
        raise WarehouseRefused(
            f"warehouse.data_path: {folder} cannot be written ({cause.strerror}); "
            "name another folder, or give this user the right to write there"
        ) from None


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _quoted(value: object) -> str:
    """Return a value as libpq reads it."""
    return "'" + re.sub(r"(['\\])", r"\\\1", str(value)) + "'"
