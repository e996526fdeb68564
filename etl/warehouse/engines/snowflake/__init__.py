"""Snowflake: the engine, what its SQL asks for, its sessions, and what Alembic has to know."""
