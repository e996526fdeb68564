"""Warehouses at the newest revision: each engine's is migrated once in a test run, and copied for every test."""

from contextlib import closing
from pathlib import Path

from etl import config
from etl.stopping import Stop
from etl.warehouse import migration
from etl.warehouse.connection import open_warehouse
from tests.servers.folder import Server, exclusively

_SCHEMES = {"ducklake": "ducklake+duckdb"}


def template_database(server: Server) -> str:
    """The URL of the server's migrated database; nobody may stay connected to it."""
    note = server.home.with_name(f"{server.home.name}.template")
    with exclusively(note.with_suffix(".template-lock")):
        if not note.exists():
            url = server.create_database()
            migrate(url)
            note.write_text(url)
    return note.read_text()


def template_lake(server: Server) -> str:
    """The URL of the server's database that is the catalog of a migrated lake.

    Copies of it share the folder of its files, in which no two files have one name.
    """
    note = server.home.with_name(f"{server.home.name}.lake")
    with exclusively(note.with_suffix(".lake-lock")):
        if not note.exists():
            url = server.create_database()
            migrate(f"{as_catalog(url)}?data_path={note.with_suffix('.lake-files')}")
            note.write_text(url)
    return note.read_text()


def as_catalog(url: str) -> str:
    """The URL of the lake whose catalog is in this database."""
    return f"ducklake+{url}"


def template_file(run_folder: Path, engine_name: str) -> Path:
    """The migrated file of an engine whose databases are files."""
    file = run_folder / f"template.{engine_name}"
    with exclusively(file.with_suffix(f".{engine_name}-lock")):
        if not file.exists():
            unfinished = file.with_suffix(f".{engine_name}-unfinished")
            migrate(f"{_SCHEMES.get(engine_name, engine_name)}:///{unfinished}")
            unfinished.rename(file)
    return file


def migrate(url: str, schema: str | None = None) -> None:
    """Bring a database to the newest revision, as the command `migrate` does."""
    settings = config.Warehouse.model_validate({"url": url, "schema": schema})
    with closing(open_warehouse(settings, config.Retry(attempts=2), Stop())) as warehouse:
        migration.upgrade(warehouse, schema)
