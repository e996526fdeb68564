"""Alembic's entry: migrates the connection that `etl.warehouse.migration` hands over, or prints SQL."""

from alembic import context

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
        connection=connection, transactional_ddl=True, version_table=given["version_table"]
    )

with context.begin_transaction():
    context.run_migrations()
