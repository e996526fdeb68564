"""What engines share whose warehouse is on a server."""

import re
import time
from typing import Any, ClassVar

import sqlalchemy as sa

from etl.warehouse.engines.base import Engine, Limits

_HIGHEST_PORT = 65_535
# A list of hosts, as libpq takes it; SQLAlchemy's `make_url` does not take it apart.
_ONE_OF_HOSTS = r"[A-Za-z0-9._-]+(?::\d{1,5})?"
_HOSTS = re.compile(
    rf"(?P<login>(?:[^:/]*(?::[^@]*)?@)?)(?P<hosts>{_ONE_OF_HOSTS}(?:,{_ONE_OF_HOSTS})+)"
    r"(?P<database>(?:/[^?]*)?)(?:\?(?P<query>.*))?"
)
_KEPT = 8
"""Connections that stay open while nobody needs them."""
_TRUSTED_SECONDS = 5.0
"""A connection that was at work so lately is not tried before it is used again."""


class ServerEngine(Engine):
    """An engine that many connections at once work with."""

    url_form: ClassVar[str] = (
        "must be {engine}://user:password@host:port/database, "
        "with other signs of the password as %40, %3A …"
    )
    usual_port: ClassVar[int]

    def sqlalchemy_form(self, text: str) -> str:
        scheme, _, place = text.partition("://")
        several = _HOSTS.fullmatch(place)
        return f"{scheme}://{self._with_hosts_in_query(several)}" if several else text

    def _with_hosts_in_query(self, several: re.Match[str]) -> str:
        """Return hosts in a list as SQLAlchemy takes them; each has its own port there."""
        hosts = (
            one if ":" in one else f"{one}:{self.usual_port}" for one in several["hosts"].split(",")
        )
        query = [*(f"host={host}" for host in hosts), *filter(None, [several["query"]])]
        return f"{several['login']}{several['database'] or '/'}?{'&'.join(query)}"

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
    }


def try_idle_connections(engine: sa.Engine) -> None:
    """Try a connection that lay idle before it is used, and replace one that is dead.

    One that broke a moment ago costs its transaction one more try; to ask before each of them
    costs every transaction a round trip.
    """

    def note(_connection: Any, record: Any) -> None:
        record.info["idle_since"] = time.monotonic()

    def ensure(connection: Any, record: Any, _fairy: Any) -> None:
        idle_since = record.info.get("idle_since")
        if idle_since is None or time.monotonic() - idle_since < _TRUSTED_SECONDS:
            return
        try:
            engine.dialect.do_ping(connection)
        except engine.dialect.loaded_dbapi.Error as dead:
            raise sa.exc.DisconnectionError from dead

    sa.event.listen(engine, "checkin", note)
    sa.event.listen(engine, "checkout", ensure)
