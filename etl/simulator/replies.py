"""An answer before it goes on the wire, and the API's error bodies (docs/api.md §3.1, §3.2)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Manner = Literal["whole", "cut", "reset", "trickle", "huge"]

ERRORS = {
    20001: (400, "Invalid parameter"),
    20003: (401, "Authenticate"),
    20004: (405, "Method not allowed"),
    20006: (403, "Access Denied"),
    20007: (400, "Page size too large"),
    20404: (404, "The requested resource was not found"),
    20429: (429, "Too Many Requests"),
    20500: (500, "Internal Server Error"),
    20503: (503, "Service Unavailable"),
    21481: (400, "Invalid PageToken"),
    70051: (401, "Authorization Error: the key lacks the permission for this resource"),
}

HTML = (
    "<html><head><title>{0}</title></head>"
    "<body><center><h1>{0}</h1></center><hr>openresty</body></html>"
)


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, body and headers, and the manner in which the body is sent."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Manner = "whole"
    seconds: float = 0.0


class RefusedError(Exception):
    """The API refuses a request; carries the answer."""

    def __init__(self, code: int, message: str | None = None) -> None:
        """Refuse with one of the API's codes."""
        super().__init__(message or ERRORS[code][1])
        self.reply = error(code, message)


def json_reply(content: Any, status: int = 200) -> Reply:
    """Answer with JSON."""
    return Reply(status, json.dumps(content).encode(), {"content-type": "application/json"})


def text_reply(text: bytes) -> Reply:
    """Answer with a JSON text that exists already."""
    return Reply(200, text, {"content-type": "application/json"})


def error(code: int, message: str | None = None) -> Reply:
    """Answer with an error in the API's usual shape."""
    status, usual = ERRORS[code]
    more = f"https://www.twilio.com/docs/errors/{code}"
    body = {"code": code, "message": message or usual, "more_info": more, "status": status}
    reply = json_reply(body, status)
    return (
        with_headers(reply, {"www-authenticate": 'Basic realm="Twilio API"'})
        if status == 401
        else reply
    )


def html_reply(status: int, title: str) -> Reply:
    """Answer as a proxy in front of the API does, with a page for people (docs/api.md §3.1)."""
    return Reply(status, HTML.format(title).encode(), {"content-type": "text/html; charset=utf-8"})


def with_headers(reply: Reply, headers: Mapping[str, str]) -> Reply:
    """Add headers to an answer."""
    return Reply(
        reply.status, reply.body, {**reply.headers, **headers}, reply.manner, reply.seconds
    )
