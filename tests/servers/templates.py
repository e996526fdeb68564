"""Warehouses at the newest revision: each engine's is migrated once in a test run, and copied for every test."""

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from etl import config
from etl.stopping import Stop
from etl.warehouse import migration
from etl.warehouse.connection import open_warehouse
from tests.servers.folder import Server, exclusively, lend_database

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


def template_lake(server: Server) -> tuple[str, Path]:
    """The URL of the server's database that is the catalog of a migrated lake, and its folder."""
    note = server.home.with_name(f"{server.home.name}.lake")
    folder = note.with_suffix(".lake-files")
    with exclusively(note.with_suffix(".lake-lock")):
        if not note.exists():
            url = server.create_database()
            migrate(f"{as_catalog(url)}?data_path={folder}")
            note.write_text(url)
    return note.read_text(), folder


def lend_lake(server: Server, folder: Path) -> Iterator[str]:
    """Yield the URL of a migrated lake that has this folder to itself, and drop it afterwards.

    Of two lakes in one folder, the first that is purged deletes the other's files.
    """
    import psycopg

    template, files = template_lake(server)
    shutil.copytree(files, folder, ignore=shutil.ignore_patterns("bindings-etl-*"))
    for url in lend_database(server, template):
        with psycopg.connect(url) as catalog:
            where = "UPDATE ducklake_metadata SET value = %s WHERE key = 'data_path'"
            catalog.execute(where, [f"{folder}/"])
        yield as_catalog(url)


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
