"""Migrations where each DDL commits at once: what a broken attempt has made is passed over."""

from typing import Any

import sqlalchemy as sa
from alembic.ddl.mysql import MariaDBImpl, MySQLImpl

_DONE = {
    1050,  # the table or view is there
    1051,  # the table or view to drop is gone
    1060,  # the column is there
    1061,  # the index is there
    1091,  # the column or index to drop is gone
    4092,  # the view to drop is gone
}


class ResumingMysql(MySQLImpl):
    """Alembic's way with MySQL, but a statement whose effect is there already is no fault."""

    __dialect__ = "mysql"

    def _exec(self, construct: Any, *args: Any, **options: Any) -> Any:
        try:
            return super()._exec(construct, *args, **options)
        except sa.exc.DBAPIError as error:
            if error.orig is None or error.orig.args[0] not in _DONE:
                raise
            return None


class ResumingMariadb(ResumingMysql, MariaDBImpl):
    """The same with MariaDB."""

    __dialect__ = "mariadb"
