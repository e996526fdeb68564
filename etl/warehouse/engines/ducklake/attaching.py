"""How a lake is attached to DuckDB, and why one cannot be."""

import importlib.util
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import sqlalchemy as sa

from etl.errors import ConfigurationError, WarehouseError, WarehouseOutdated, WarehouseRefused
from etl.warehouse.engines.base import DbErrorKind, Limits
from etl.warehouse.engines.ducklake.dialect import OPTIONS
from etl.warehouse.engines.reaching import Unreached, reach

LAKE = "lake"
_CATALOG = "catalog"
_FORMAT = "1.0"
BUCKET = "s3://"
_BESIDE = ".files"
_DEFAULT_PORT = 5432
_SHORTEST_SILENCE = 2
_TRIAL = "bindings-etl-was-here.csv"
_INSTALL = "pip install 'bindings-etl[ducklake]'"


class Place(msgspec.Struct, frozen=True):
    """Where a lake is."""

    url: sa.URL
    """Of the catalog: a DuckDB file, or a database in PostgreSQL."""
    data_path: str | None
    schema: str | None
    limits: Limits

    @property
    def is_file(self) -> bool:
        """Whether the catalog is a file, which one process has for itself."""
        return self.url.get_driver_name() == "duckdb"

    @property
    def named_folder(self) -> str | None:
        """Where the files go by the configuration."""
        if self.data_path is None or self.is_bucket:
            return self.data_path
        return _absolute(self.data_path)

    @property
    def usual_folder(self) -> str | None:
        """Where they go when nobody has said it: beside a catalog that is a file."""
        return f"{_absolute(str(self.url.database))}{_BESIDE}" if self.is_file else None

    @property
    def is_bucket(self) -> bool:
        """Whether the data's files go to S3, or to what speaks like it."""
        return self.data_path is not None and self.data_path.startswith(BUCKET)

    @property
    def extensions(self) -> list[str]:
        """What DuckDB needs to open the lake."""
        return [
            "ducklake",
            *([] if self.is_file else ["postgres_scanner"]),
            *(["httpfs", "aws"] if self.is_bucket else []),
        ]

    def catalog(self, **settings: float) -> str:
        """Return what names the catalog's database to DuckDB, without its kind.

        The server is given `settings` in seconds; a connection that is dead is given up.
        """
        if self.is_file:
            return str(self.url.database)
        seconds = {
            "lock_timeout": self.limits.lock,
            "statement_timeout": self.limits.statement,
            "idle_in_transaction_session_timeout": self.limits.statement,
            **settings,
        }
        options = [f"-c {name}={round(value * 1000)}" for name, value in seconds.items()]
        silence = max(_SHORTEST_SILENCE, round(self.limits.silence))
        known = {
            "host": self.url.host,
            "port": self.url.port,
            "dbname": self.url.database,
            "user": self.url.username,
            "password": self.url.password,
            "connect_timeout": silence,
            "keepalives_idle": silence,
            "tcp_user_timeout": silence * 1000,
            **self.url.difference_update_query(OPTIONS).query,
            **self.limits.login(),
        }
        known["options"] = " ".join([str(self.url.query.get("options", "")), *options]).strip()
        return " ".join(f"{name}={_quoted(value)}" for name, value in known.items() if value)


def load_extensions(session: Any, place: Place) -> None:
    """Load what DuckDB needs, from files that Python packages have brought.

    Raises:
        ConfigurationError: a package is missing, or is for another version of DuckDB.
    """
    for name in place.extensions:
        file = extension_file(name)
        try:
            session.execute(f"LOAD {literal(str(file))}")
        except duckdb.Error as error:
            raise ConfigurationError(
                f"DuckDB does not take its extension {name} ({type(error).__name__}); put "
                f"together what fits this machine: {_INSTALL}"
            ) from None


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


def attach(session: Any, place: Place, *, create: bool) -> str:
    """Attach the lake, go into it, and return the folder of its files.

    Its catalog is made where it is missing and that is allowed.

    Raises:
        Unreached, WarehouseError, ConfigurationError: it cannot be done.
    """
    catalog = place.catalog()
    kind = "" if place.is_file else "postgres:"
    folder = place.named_folder or _find_folder(session, place, catalog)
    options = [f"CREATE_IF_NOT_EXISTS {str(create).lower()}"]
    if folder is not None:
        if create:
            _require_writable(session, folder)
        options.append(f"DATA_PATH {literal(folder)}")
        options.append(f"OVERRIDE_DATA_PATH {str(place.data_path is None).lower()}")
    try:
        session.execute(
            f"ATTACH IF NOT EXISTS {literal(f'ducklake:{kind}{catalog}')} AS {LAKE} "
            f"({', '.join(options)})"
        )
        session.execute(f"USE {LAKE}")
        if place.schema:
            with suppress(duckdb.CatalogException):  # before the first migration, which makes it
                session.execute(enter_schema(place.schema))
        return folder or _stored_folder(session)
    except duckdb.Error as error:
        raise _why_not(session, place, catalog, type(error).__name__) from None


def _stored_folder(session: Any) -> str:
    query = f"SELECT value FROM ducklake_options('{LAKE}') WHERE option_name = 'data_path'"  # noqa: S608
    (folder,) = session.execute(query).fetchone()
    return str(folder)


def is_made(session: Any, place: Place) -> bool:
    """Return whether there is a catalog, or something else in its place."""
    if place.is_file:
        return Path(str(place.url.database)).exists()
    try:
        return bool(_read_settings(session, place, place.catalog()))
    except duckdb.Error:  # whoever attaches it finds out why
        return True


def _find_folder(session: Any, place: Place, catalog: str) -> str | None:
    """Return where the files are, if that is beside the catalog, with which they may have moved.

    Else the catalog knows it.

    Raises:
        ConfigurationError: they are in a bucket, which has to be signed in to.
    """
    try:
        stored = _read_settings(session, place, catalog).get("data_path", "").rstrip("/")
    except duckdb.Error:  # there is none yet, or to attach it will fail likewise
        return place.usual_folder
    if stored.startswith(BUCKET):
        raise _has_moved(stored)
    return place.usual_folder if not stored or stored.endswith(_BESIDE) else None


def enter_schema(schema: str) -> str:
    """Return the statement that goes into a schema of the lake."""
    return f"USE {LAKE}." + '"' + schema.replace('"', '""') + '"'


def _why_not(session: Any, place: Place, catalog: str, code: str) -> Exception:
    """Return why a lake could not be attached, found out by a look at its catalog.

    DuckDB tells it in words only, with values of the connection in them.
    """
    try:
        settings = _read_settings(session, place, catalog)
    except duckdb.Error as error:
        return why_closed(place, type(error).__name__)
    if not settings:
        return _why_empty(place)
    if settings.get("version") != _FORMAT:
        return WarehouseRefused(
            f"the catalog is written in DuckLake's format {settings.get('version')}, and this "
            f"program writes {_FORMAT}; upgrade bindings-etl, or use the catalog of before"
        )
    stored = settings.get("data_path", "").rstrip("/")
    if place.named_folder and stored != place.named_folder.rstrip("/"):
        return _has_moved(stored)
    return Unreached(DbErrorKind.OTHER, code)


def _has_moved(stored: str) -> ConfigurationError:
    return ConfigurationError(
        f"warehouse.data_path: the catalog has its files in {stored}; write that"
    )


def _read_settings(session: Any, place: Place, catalog: str) -> dict[str, str]:
    """Return what the catalog's database says of the lake; nothing where there is none."""
    kind = "" if place.is_file else "TYPE postgres, "
    session.execute(f"ATTACH {literal(catalog)} AS {_CATALOG} ({kind}READ_ONLY)")
    try:
        found = session.execute(
            f"SELECT key, value FROM {_CATALOG}.ducklake_metadata WHERE scope IS NULL"  # noqa: S608
        )
        return dict(found.fetchall())
    except duckdb.CatalogException:
        return {}
    finally:
        session.execute(f"DETACH {_CATALOG}")


def why_closed(place: Place, code: str) -> Unreached:
    """Return why the catalog's database lets nobody in."""
    if place.is_file:
        return Unreached(DbErrorKind.LOCKED, code)
    host = str(place.url.query.get("host") or place.url.host or "localhost")
    port = place.url.port or _DEFAULT_PORT
    try:
        where = f"{host}/.s.PGSQL.{port}" if host.startswith("/") else host
        reach(where, port, place.limits.silence).close()
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


def _require_writable(session: Any, folder: str) -> None:
    """Make the folder of the data, and try to write there.

    Raises:
        WarehouseRefused: it cannot be written.
    """
    if folder.startswith(BUCKET):
        trial = literal(f"{folder.rstrip('/')}/{_TRIAL}")
        try:
            session.execute(f"COPY (SELECT 1 AS trial) TO {trial} (FORMAT csv)")
        except duckdb.Error as error:
            raise unwritable(folder, type(error).__name__) from None
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / _TRIAL).touch()
        (Path(folder) / _TRIAL).unlink()
    except OSError as cause:
        raise unwritable(folder, str(cause.strerror)) from None


def unwritable(folder: str, why: str) -> WarehouseRefused:
    return WarehouseRefused(
        f"warehouse.data_path: {folder} cannot be written ({why}); name another place, or give "
        "this user the right to write there"
    )


def sign_in(session: Any) -> None:
    """Let DuckDB sign in to S3.

    Raises:
        ConfigurationError: nothing says how.
    """
    try:
        session.execute(_secret(os.environ))
    except duckdb.Error:
        raise ConfigurationError(
            "warehouse.data_path: there are no credentials for S3; set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or let the machine have a role"
        ) from None


def _secret(environment: Mapping[str, str]) -> str:
    """Return the statement that lets DuckDB sign in to S3 as AWS's own tools do."""
    options = ["TYPE s3", "PROVIDER credential_chain"]
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint:
        scheme, _, host = endpoint.rpartition("://")
        options += [f"ENDPOINT {literal(host)}", "URL_STYLE 'path'"]
        options += [f"USE_SSL {str(scheme != 'http').lower()}"]
    return f"CREATE OR REPLACE SECRET bindings_etl ({', '.join(options)})"


def _absolute(path: str) -> str:
    """Return a path as DuckDB writes those of files: it tells them apart as texts."""
    return re.sub("/+", "/", str(Path(path).absolute()))


def literal(text: str) -> str:
    """Return a text as SQL has it."""
    return "'" + text.replace("'", "''") + "'"


def _quoted(value: object) -> str:
    """Return a value as libpq reads it."""
    return "'" + re.sub(r"(['\\])", r"\\\1", str(value)) + "'"
