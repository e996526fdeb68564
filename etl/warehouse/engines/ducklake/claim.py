"""The statement by which a transaction of a lake says that it writes."""

from etl.warehouse.tables import VERSION_TABLE

# Every transaction that writes changes this one row, whatever else it writes: so of any two at once
# the later one is undone at its COMMIT, and tried again upon what the other has left. Without keys,
# two who each find a row missing would both put it in.
CLAIM = f"UPDATE {VERSION_TABLE} SET version_num = version_num"  # noqa: S608 - our name
