"""How migrations after 0.1.0 make a view. Frozen once 0.2.0 is released."""

from alembic import op


def create_view(name: str, body: str, meaning: str, columns: dict[str, str]) -> None:
    """Create a view, with comments on it and its columns where the engine keeps them.

    On MariaDB and MySQL it works with the rights of whoever asks: else it would end with the user
    that made it.
    """
    dialect = op.get_context().dialect.name
    security = "SQL SECURITY INVOKER " if dialect in ("mariadb", "mysql") else ""
    op.execute(f"CREATE {security}VIEW {name} AS {body.strip()}")
    _comment(name, meaning, columns)


def replace_view(name: str, body: str, meaning: str, columns: dict[str, str]) -> None:
    """Put another view in the place of one, with the privileges on it.

    PostgreSQL keeps them when the columns of before stay the first ones; elsewhere they go by name.
    """
    if op.get_context().dialect.name != "postgresql":
        drop_view(name)
        create_view(name, body, meaning, columns)
        return
    op.execute(f"CREATE OR REPLACE VIEW {name} AS {body.strip()}")
    _comment(name, meaning, columns)


def _comment(name: str, meaning: str, columns: dict[str, str]) -> None:
    if op.get_context().dialect.name in ("postgresql", "duckdb"):
        op.execute(f"COMMENT ON VIEW {name} IS {_quote(meaning)}")
        for column, comment in columns.items():
            op.execute(f"COMMENT ON COLUMN {name}.{column} IS {_quote(comment)}")


def drop_view(name: str) -> None:
    """Drop a view. PostgreSQL forgets the privileges on it; grant them anew, or replace it."""
    op.execute(f"DROP VIEW {name}")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
