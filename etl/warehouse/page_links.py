"""Where pages of the last complete reading of a listing began: there the next one can be cut.

A link may hold a filter or the SID of a binding, so it is treated as personal data: it is never
stored of a listing by identities, `erase` drops all links of a service in which it finds a trace,
and a service that is taken out leaves none.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from etl.domain.chains import MOST_LINKS, PageLink
from etl.domain.scope import Scope
from etl.warehouse.tables import page_links


def find(conn: sa.Connection, scope: Scope, page_size: int) -> list[PageLink]:
    """Return the links of a listing in pages of this size, by position."""
    query = sa.select(*(page_links.c[name] for name in PageLink._fields)).where(
        _of(scope), page_links.c.account == scope.account, page_links.c.page_size == page_size
    )
    ordered = query.order_by(page_links.c.rows_before).limit(MOST_LINKS)
    return [PageLink(*line) for line in conn.execute(ordered)]


def replace(conn: sa.Connection, scope: Scope, scan_id: int, links: Sequence[PageLink]) -> None:
    """Remember these links of a listing, and no others."""
    conn.execute(sa.delete(page_links).where(_of(scope)))
    shared = {**_key(scope), "account": scope.account, "scan_id": scan_id}
    if links:
        conn.execute(sa.insert(page_links), [{**one._asdict(), **shared} for one in links])


def forget(conn: sa.Connection, chat_service_sid: str) -> None:
    """Forget all links of a service."""
    conn.execute(sa.delete(page_links).where(page_links.c.chat_service_sid == chat_service_sid))


def forget_all(conn: sa.Connection) -> None:
    """Drop what is stored of every service."""
    conn.execute(sa.delete(page_links))


def _of(scope: Scope) -> sa.ColumnElement[bool]:
    return sa.and_(*(page_links.c[name] == value for name, value in _key(scope).items()))


def _key(scope: Scope) -> dict[str, str]:
    """Dates narrow what is loaded, and not what is listed."""
    return {"chat_service_sid": scope.chat_service_sid, "scope": scope.undated.label}
