"""What engines share whose warehouse is on a server."""

from typing import Any, ClassVar

import sqlalchemy as sa

from etl.warehouse.engines.base import Engine, Limits

_HIGHEST_PORT = 65_535
_KEPT = 8
"""Connections that stay open while nobody needs them."""


class ServerEngine(Engine):
    """An engine that many connections at once work with."""

    url_form: ClassVar[str] = (
        "must be {engine}://user:password@host:port/database, "
        "with other signs of the password as %40, %3A …"
    )

    def accepts(self, url: sa.URL) -> bool:
        host = url.host or ""
        is_host = not any(sign in "@[]" or sign.isspace() for sign in host)
        return is_host and 0 <= (url.port or 0) <= _HIGHEST_PORT


def pool_options(limits: Limits) -> dict[str, Any]:
    """Return how `create_engine` keeps connections; there is one more, for the heartbeat."""
    return {
        "hide_parameters": True,
        "pool_size": _KEPT,
        "max_overflow": max(0, limits.connections + 1 - _KEPT),
        "pool_timeout": limits.lock,
        "pool_pre_ping": True,
    }
