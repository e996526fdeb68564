"""Alembic's entry: migrates the connection that `etl.warehouse.migration` hands over, or prints SQL."""

from alembic import context

connection = context.config.attributes.get("connection")

if connection is None:
    context.configure(
        dialect_name=context.config.attributes["dialect_name"],
        output_buffer=context.config.output_buffer,
        literal_binds=True,
    )
else:
    context.configure(connection=connection, transactional_ddl=True)

with context.begin_transaction():
    context.run_migrations()
