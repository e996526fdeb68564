"""Alembic's entry: migrates the one connection that `etl.warehouse.migration` hands over, or prints SQL for one engine."""

from alembic import context

from etl.warehouse.tables import metadata

connection = context.config.attributes.get("connection")

if connection is None:
    context.configure(
        dialect_name=context.config.attributes["dialect_name"],
        target_metadata=metadata,
        output_buffer=context.config.output_buffer,
        literal_binds=True,
    )
else:
    context.configure(connection=connection, target_metadata=metadata, transactional_ddl=True)

with context.begin_transaction():
    context.run_migrations()
