"""The views."""

from alembic import op
from etl_frozen.views_0_1 import COMMENTS, bodies

revision = "20261123_02"
down_revision = "20261123_01"


def upgrade() -> None:
    """Create the views, with comments where the engine keeps them."""
    dialect = op.get_context().dialect.name
    for name, body in bodies(dialect).items():
        op.execute(f"CREATE VIEW {name} AS{body}")
    if dialect in ("postgresql", "duckdb"):
        _comment()


def downgrade() -> None:
    """Drop the views."""
    for name in reversed(COMMENTS):
        op.execute(f"DROP VIEW {name}")


def _comment() -> None:
    for view, (meaning, columns) in COMMENTS.items():
        op.execute(f"COMMENT ON VIEW {view} IS {_quote(meaning)}")
        for column, comment in columns.items():
            op.execute(f"COMMENT ON COLUMN {view}.{column} IS {_quote(comment)}")


def _quote(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
