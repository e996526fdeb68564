"""Alembic's entry: migrates the connection that `etl.warehouse.migration` hands over, or prints SQL."""

from typing import Any

from alembic import context


def _commit_on_duckdb(*, ctx: Any, **_rest: Any) -> None:
    """After each migration: in one transaction, DuckDB takes no changed rows and changed columns."""
    if ctx.dialect.name == "duckdb" and not ctx.as_sql:
        ctx.connection.exec_driver_sql("COMMIT")
        ctx.connection.exec_driver_sql("BEGIN TRANSACTION")


given = context.config.attributes
connection = given.get("connection")

if connection is None:
    context.configure(
        dialect_name=given["dialect_name"],
        output_buffer=context.config.output_buffer,
        literal_binds=True,
        version_table=given["version_table"],
    )
else:
    context.configure(
        connection=connection,
        transactional_ddl=True,
        version_table=given["version_table"],
        on_version_apply=_commit_on_duckdb,
    )

with context.begin_transaction():
    context.run_migrations()
