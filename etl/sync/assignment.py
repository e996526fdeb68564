"""The processes of a run group agree which of them reads which service, by the last sizes."""

from collections.abc import Collection, Mapping

import sqlalchemy as sa

from etl.config import Account, Settings
from etl.sync.context import Context, Request
from etl.sync.division import Division
from etl.warehouse import assignments, services
from etl.warehouse.assignments import Assignment


def agree_on_places(context: Context, account: Account, sids: Collection[str]) -> None:
    """Divide an account's services among the shards of the run group.

    The first process to come here writes down who reads what, all others read it. `sids` are the
    services that were found. Without a run group services go by the hash of their SID.
    """
    request, division, warehouse = context.request, context.division, context.warehouse
    which = _assignment_of(request, division, account)
    if which is None:
        return

    def propose(conn: sa.Connection) -> Mapping[str, int]:
        sizes = services.read_sizes(conn)
        requests = {sid: 1 + sizes.get(sid, 0) // account.page_size for sid in sids}
        return division.spread_of(account.name).assign(which.shards, requests)

    def look(conn: sa.Connection) -> Mapping[str, int]:
        return assignments.read(conn, which) or propose(conn)

    def agree(conn: sa.Connection) -> Mapping[str, int]:
        known = assignments.read(conn, which)
        return known or assignments.record(conn, warehouse.engine, which, propose(conn))

    places = warehouse.transact(agree) if context.holder else warehouse.read(look)
    division.agree(account.name, places)


def recall_division(conn: sa.Connection, settings: Settings, request: Request) -> Division:
    """Return what of a run is this process's, as its run group has agreed."""
    division = Division(request.shard, settings.accounts)
    for account in settings.accounts:
        if which := _assignment_of(request, division, account):
            division.agree(account.name, assignments.read(conn, which))
    return division


def _assignment_of(request: Request, division: Division, account: Account) -> Assignment | None:
    if request.shard is None or request.run_group is None:
        return None
    spread = division.spread_of(account.name)
    return Assignment(request.run_group, spread.key, request.shard.count)
