"""Keys that hold: where an engine enforces none, the program has to."""

from typing import Any

import sqlalchemy as sa

from etl.warehouse.tables import metadata


def repeated_keys(conn: sa.Connection) -> dict[str, list[Any]]:
    """Keys that stand more than once in a table, by table."""
    found = {}
    for table in metadata.sorted_tables:
        unique = [one for one in table.constraints if isinstance(one, sa.UniqueConstraint)]
        for key in (table.primary_key, *unique):
            columns = list(key.columns)
            query = sa.select(*columns).group_by(*columns).having(sa.func.count() > 1)
            if lines := [tuple(line) for line in conn.execute(query)]:
                found[table.name] = lines
    return found
