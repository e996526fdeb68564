"""The fetch floor plus PostgreSQL: COPY into a temporary table, one upsert by primary key a service."""

from __future__ import annotations

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec
import psycopg

from benchmarks.floors.fetch import SERVICES, Binding, fetch_pages

DATABASE_URL = os.environ["BENCH_DATABASE_URL"]
COLUMNS = Binding.__struct_fields__
CREATE = """
    CREATE TABLE IF NOT EXISTS bindings (
        sid text PRIMARY KEY, account_sid text, chat_service_sid text, credential_sid text,
        date_created timestamptz, date_updated timestamptz, endpoint text, identity text, binding_type text,
        message_types jsonb, url text)
"""
STAGE = "CREATE TEMP TABLE staged (LIKE bindings)"
UPSERT = "INSERT INTO bindings SELECT * FROM staged ON CONFLICT (sid) DO UPDATE SET " + ", ".join(
    f"{column} = excluded.{column}" for column in COLUMNS[1:]
)


def to_lines(rows: Iterable[Binding]) -> bytes:
    """COPY's text form. Nothing is escaped: the bench knows its own rows."""
    encode = msgspec.json.encode
    return "".join(
        f"{r.sid}\t{r.account_sid}\t{r.chat_service_sid}\t{r.credential_sid}\t{r.date_created}\t{r.date_updated}\t"
        f"{r.endpoint}\t{r.identity}\t{r.binding_type}\t{encode(r.message_types).decode()}\t{r.url}\n"
        for r in rows
    ).encode()


def load(client: httpx.Client, service: str) -> None:
    with psycopg.connect(DATABASE_URL) as connection, connection.cursor() as cursor:
        cursor.execute(STAGE)
        with cursor.copy("COPY staged FROM STDIN") as copy:
            for rows in fetch_pages(client, service):
                copy.write(to_lines(rows))
        cursor.execute(UPSERT)


def main() -> None:
    with psycopg.connect(DATABASE_URL) as connection:
        connection.execute(CREATE)
    with httpx.Client(auth=("user", "secret")) as client, ThreadPoolExecutor(len(SERVICES)) as pool:
        list(pool.map(lambda service: load(client, service), SERVICES))


if __name__ == "__main__":
    main()
