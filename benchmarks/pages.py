"""Renders a world into ready HTTP answers, so that serving a page costs a dictionary lookup and a write."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

from benchmarks.world import ACCOUNT_SID, CHANGED, EXPIRED, World, make_row

Pages = dict[str, dict[str, bytes]]  # listing path → page token ("" for the first page) → answer


def answer(status: str, body: str) -> bytes:
    content = body.encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "Twilio-Request-Id: RQ00000000000000000000000000000000\r\n\r\n"
    )
    return head.encode() + content


def error(status: str, code: int, message: str) -> bytes:
    more = f"https://www.twilio.com/docs/errors/{code}"
    document = {"code": code, "message": message, "more_info": more, "status": int(status[:3])}
    return answer(status, json.dumps(document))


def render(world: World, base_url: str, variant: str) -> Pages:
    """Every page of every service."""
    return {
        f"/v1/Services/{sid}/Bindings": dict(_render_service(world, base_url, number, variant))
        for number, sid in enumerate(world.service_sids)
    }


def _render_service(
    world: World, base_url: str, number: int, variant: str
) -> Iterator[tuple[str, bytes]]:
    changed = world.changed_indexes() if variant == CHANGED else frozenset()
    day = 5 if variant == EXPIRED else 4
    sid, first = world.service_sids[number], number * world.rows_per_service
    for page in range(world.pages_per_service):
        start = page * world.page_size
        stop = min(start + world.page_size, world.rows_per_service)
        rows = [
            make_row(base_url, sid, index, changed=first + index in changed)
            for index in range(start, stop)
        ]
        meta = _make_meta(world, base_url, sid, page, day)
        yield (
            _token(page, day),
            answer("200 OK", f'{{"meta": {json.dumps(meta)}, "bindings": [{", ".join(rows)}]}}'),
        )


def _make_meta(world: World, base_url: str, sid: str, page: int, day: int) -> dict[str, object]:
    listing = f"{base_url}/v1/Services/{sid}/Bindings?PageSize={world.page_size}"

    def link(number: int) -> str:
        return f"{listing}&Page={number}" + (f"&PageToken={_token(number, day)}" if number else "")

    return {
        "page": page,
        "page_size": world.page_size,
        "first_page_url": link(0),
        "previous_page_url": link(page - 1) if page else None,
        "url": link(page),
        "next_page_url": link(page + 1) if page + 1 < world.pages_per_service else None,
        "key": "bindings",
    }


def _token(page: int, day: int) -> str:
    """Shaped like the service's own: dots, colons and unescaped base64 padding."""
    if not page:
        return ""
    padded = base64.b64encode(f"{page:07}".encode()).decode()
    return f"PTactive_2025-05-{day:02}T03:17:17.005Z_{padded}"


def render_services(world: World, base_url: str) -> bytes:
    """The answer of ``GET /v1/Services``: one page, it never holds many."""
    services = [
        {
            "sid": sid,
            "account_sid": ACCOUNT_SID,
            "friendly_name": f"service {number}",
            "date_created": "2023-01-01T00:00:00Z",
            "date_updated": "2023-01-01T00:00:00Z",
            "url": f"{base_url}/v1/Services/{sid}",
            "links": {"bindings": f"{base_url}/v1/Services/{sid}/Bindings"},
        }
        for number, sid in enumerate(world.service_sids)
    ]
    url = f"{base_url}/v1/Services?PageSize=50&Page=0"
    meta = {
        "page": 0,
        "page_size": 50,
        "first_page_url": url,
        "previous_page_url": None,
        "url": url,
        "next_page_url": None,
        "key": "services",
    }
    return answer("200 OK", json.dumps({"meta": meta, "services": services}))


def index_rows(world: World) -> dict[str, tuple[str, int, int]]:
    """Binding SID → service SID, index in the service, number in the world."""
    index = {}
    for number, service in enumerate(world.service_sids):
        for row in range(world.rows_per_service):
            sid = json.loads(make_row("", service, row, changed=False))["sid"]
            index[sid] = (service, row, number * world.rows_per_service + row)
    return index
