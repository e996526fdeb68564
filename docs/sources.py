"""Writes docs/dbt/models/staging/sources.yml, what dbt is told of the warehouse: `make docs`."""

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from etl.warehouse.tables import bindings
from etl.warehouse.views import COMMENTS

PAGE = Path(__file__).parent / "dbt" / "models" / "staging" / "sources.yml"

_HEAD = "# Written by `make docs` from the comments of the tables and views.\n"
_TYPES = ["apn", "fcm", "gcm", "twilsock"]
_WARN = {"severity": "warn"}

# What dbt looks at; what is only odd is a warning, since what nobody knows today is loaded.
_TESTS: dict[str, dict[str, list[Any]]] = {
    "bindings": {
        "sid": ["unique", "not_null"],
        "chat_service_sid": ["not_null"],
        "binding_type": [
            {"accepted_values": {"arguments": {"values": _TYPES}, "config": _WARN}},
        ],
        "date_updated": [{"not_null": {"config": _WARN}}],
    },
    "active_bindings": {"sid": ["unique", "not_null"]},
    "service_freshness": {
        "chat_service_sid": ["unique", "not_null"],
        "state": [
            {
                "accepted_values": {
                    "arguments": {"values": ["active", "unconfigured"]},
                    "config": _WARN,
                }
            }
        ],
        "last_complete_at": [{"not_null": {"config": {**_WARN, "where": "state = 'active'"}}}],
    },
    "daily_changes": {"day": ["not_null"]},
    "shared_endpoints": {"sid": ["unique"]},
}

# The oldest service counts; the column's newest value would be the best of all.
_FRESHNESS = {
    "loaded_at_query": "select min(last_complete_at) from {{ this }} where state = 'active'",
    "freshness": {
        "warn_after": {"count": 1, "period": "hour"},
        "error_after": {"count": 1, "period": "day"},
    },
}


def render() -> str:
    """Return the whole file."""
    table = {column.name: str(column.comment) for column in bindings.columns}
    known = {"bindings": (str(bindings.comment), table), **COMMENTS}
    source = {
        "name": "push_bindings",
        "description": "Push-notification bindings of Twilio Conversations, kept by bindings-etl.",
        "schema": "{{ env_var('BINDINGS_SCHEMA', 'main') }}",
        "tables": [_table(name, *described) for name, described in known.items()],
    }
    plain = json.loads(json.dumps({"sources": [source]}))  # else YAML would refer to what is shared
    return _HEAD + yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def _table(name: str, meaning: str, columns: dict[str, str]) -> dict[str, Any]:
    config = {"config": _FRESHNESS} if name == "service_freshness" else {}
    return {
        "name": name,
        "description": meaning,
        **config,
        "columns": [_column(name, column, comment) for column, comment in columns.items()],
    }


def _column(table: str, name: str, comment: str) -> dict[str, Any]:
    tests = _TESTS.get(table, {}).get(name, [])
    return {"name": name, "description": comment, **({"data_tests": tests} if tests else {})}


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE.name} is up to date\n")
