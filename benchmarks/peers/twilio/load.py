"""The official SDK's stream, upserted in batches with SQLAlchemy Core; one thread a service."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Engine,
    Insert,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
)
from sqlalchemy.dialects import mysql, postgresql
from twilio.rest import Client

BATCH = 2_000
SERVICES = os.environ["BENCH_SERVICES"].split(",")
PAGE_SIZE = int(os.environ["BENCH_PAGE_SIZE"])

bindings = Table(
    "bindings",
    MetaData(),
    Column("sid", String(34), primary_key=True),
    Column("account_sid", Text),
    Column("chat_service_sid", Text),
    Column("credential_sid", Text),
    Column("date_created", DateTime(timezone=True)),
    Column("date_updated", DateTime(timezone=True)),
    Column("endpoint", Text),
    Column("identity", Text),
    Column("binding_type", Text),
    Column("message_types", JSON),
    Column("url", Text),
)
COLUMNS = [column.name for column in bindings.columns]


def read_batches(client: Client, service: str) -> Iterator[list[dict[str, Any]]]:
    rows = client.conversations.v1.services(service).bindings.stream(page_size=PAGE_SIZE)
    while batch := list(islice(rows, BATCH)):
        yield [{name: getattr(row, name) for name in COLUMNS} for row in batch]


def build_upsert(dialect: str) -> Insert:
    if dialect == "mysql":
        into_mariadb = mysql.insert(bindings)
        return into_mariadb.on_duplicate_key_update(
            {name: into_mariadb.inserted[name] for name in COLUMNS[1:]}
        )
    statement = postgresql.insert(bindings)
    changes = {name: statement.excluded[name] for name in COLUMNS[1:]}
    return statement.on_conflict_do_update(index_elements=["sid"], set_=changes)


def load(client: Client, engine: Engine, service: str) -> None:
    upsert = build_upsert(engine.dialect.name)
    with engine.begin() as connection:
        for batch in read_batches(client, service):
            connection.execute(upsert, batch)


def main() -> None:
    client = Client("AC" + "0" * 32, "secret")
    client.conversations.base_url = os.environ["BENCH_BASE_URL"]
    engine = create_engine(
        os.environ["BENCH_DATABASE_URL"].replace("postgresql:", "postgresql+psycopg:")
    )
    bindings.metadata.create_all(engine)
    with ThreadPoolExecutor(len(SERVICES)) as pool:
        list(pool.map(lambda service: load(client, engine, service), SERVICES))


if __name__ == "__main__":
    main()
