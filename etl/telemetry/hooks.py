"""Webhooks: posts the result of a run to heartbeat monitors, chats or incident tools."""

import json
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx

from etl.telemetry import limits
from etl.telemetry.limits import Undelivered

Format = Literal["json", "slack"]
Document = Mapping[str, Any]

_SHARE_OF_FIRST_TRY = 0.6
_PAUSE_SECONDS = 0.2
# A chat cuts long messages; whoever wants all of it looks into the log.
_MOST_LINES = 10


def body(run: Document, exit_code: int, form: Format) -> bytes:
    """Return what is posted about a run."""
    document = run if form == "json" else {"text": summary(run, exit_code)}
    return json.dumps(document, ensure_ascii=False).encode(errors="backslashreplace")


def summary(run: Document, exit_code: int) -> str:
    """Return a run in a few lines, in the mark-up of Slack."""
    counted = {
        name: run["totals"][name]
        for name in ("inserted", "updated", "deleted", "restored", "rejected")
    }
    done = ", ".join(f"{number:,} {name}" for name, number in counted.items() if number)
    number = "" if run["run_id"] is None else f" {run['run_id']}"
    lines = [
        (
            f"*bindings-etl* {run['mode']} run{number}: *{run['status']}* "
            f"(exit code {exit_code}), {done or 'no changes'}"
        )
    ]
    troubles = [
        f"• {entry['chat_service_sid'] or entry['account']}: {entry['status']}: "
        f"{entry['error']['message']}"
        for entry in run["services"]
        if entry["error"] and entry["status"] != "skipped"
    ]
    if run.get("error"):
        troubles.append(f"• {run['error']['message']}")
    lines += troubles[:_MOST_LINES]
    if len(troubles) > _MOST_LINES:
        lines.append(f"• … and {len(troubles) - _MOST_LINES} more")
    return _escaped("\n".join(lines))


def post(url: str, content: bytes, seconds: float) -> None:
    """Post to one URL, and once more when that fails, all within `seconds`.

    Raises:
        Undelivered: it was not taken either time.
    """
    give_up_at = time.monotonic() + seconds
    try:
        _try(url, content, seconds * _SHARE_OF_FIRST_TRY)
    except Undelivered:
        time.sleep(_PAUSE_SECONDS)
        _try(url, content, give_up_at - time.monotonic())


def _try(url: str, content: bytes, seconds: float) -> None:
    try:
        status = limits.within(seconds, partial(_send, url, content, seconds), "hook")
    except Exception as cause:  # noqa: BLE001 - whatever it is, it is no answer
        # Not chained: what foreign errors say may hold the URL.
        raise Undelivered(f"no answer ({type(cause).__name__})") from None
    if not 200 <= status < 300:
        raise Undelivered(f"the answer was HTTP {status}")


def _send(url: str, content: bytes, seconds: float) -> int:
    headers = {
        "Content-Type": "application/json",
        "User-Agent": f"bindings-etl/{version('bindings-etl')}",
    }
    # Plain http goes to this machine alone, past any proxy. Only the status is read.
    through_proxies = urlsplit(url).scheme == "https"
    with (
        httpx.Client(timeout=max(seconds, 0.01), trust_env=through_proxies) as client,
        client.stream("POST", url, content=content, headers=headers) as answer,
    ):
        return answer.status_code


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
