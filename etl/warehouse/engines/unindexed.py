"""What Alembic has to know where tables have no keys and no indexes."""

from typing import Any

import sqlalchemy as sa


class Unindexed:
    """To be put before an implementation of Alembic's."""

    def create_index(self, index: sa.Index, **kw: Any) -> None:
        """Do nothing: the statistics of the stored parts say where to look."""

    def drop_index(self, index: sa.Index, **kw: Any) -> None:
        """Do nothing, likewise."""

    def correct_for_autogen_constraints(
        self,
        conn_uniques: Any,
        conn_indexes: Any,
        metadata_unique_constraints: Any,
        metadata_indexes: Any,
    ) -> None:
        """Let nobody miss what cannot be there."""
        metadata_unique_constraints.clear()
        metadata_indexes.clear()
