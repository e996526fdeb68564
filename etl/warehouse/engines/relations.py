"""Queries in an engine's own SQL, as relations that other statements join."""

import sqlalchemy as sa


def batch_of(query: str) -> sa.FromClause:
    """Return a query of `sid` and `source_hash` as `Engine.batch_table` wants it."""
    columns = sa.column("sid", sa.String), sa.column("source_hash", sa.String)
    return sa.text(query).columns(*columns).subquery("batch")


def seen_of(query: str) -> sa.FromClause:
    """Return a query of `batch` and `sid` as `Engine.seen_sids` wants it.

    It names the stage as `:of_stage_id`.
    """
    stage = sa.bindparam("of_stage_id", type_=sa.BigInteger)
    columns = sa.column("batch", sa.BigInteger), sa.column("sid", sa.String)
    return sa.text(query).bindparams(stage).columns(*columns).subquery("seen")
