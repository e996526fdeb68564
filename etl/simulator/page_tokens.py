"""Page tokens in the styles that servers have; the real one's is not known (docs/api.md §2.4)."""

import re
import secrets
from base64 import urlsafe_b64encode
from typing import Literal, NamedTuple
from zlib import crc32

State = Literal["active", "closed", "before"]
TokenStyle = Literal["position", "row", "offset", "opaque"]
"""What a token names: a place in the order, a row wherever it stands, a number of rows, nothing."""

TOKEN = re.compile(
    r"(?P<body>PT(?P<state>active|closed|before)_(?P<position>[\d:T.-]+Z_\w+))"
    r"\.(?P<seal>[\w-]{6}==)",
    re.ASCII,
)
NAMED = re.compile(
    r"(?P<body>P(?P<kind>R|N)(?P<state>active|before)_(?P<name>\w+))\.(?P<seal>[\w-]{6}==)",
    re.ASCII,
)


class Place(NamedTuple):
    """Where a token points to: from there on, or up to it."""

    position: str | None
    state: State = "active"
    offset: int = 0
    row: str | None = None


class PageTokens:
    """Writes and reads the tokens of a server."""

    def __init__(self, style: TokenStyle = "position", good_for: int | None = None) -> None:
        """Let opaque tokens be good for so many requests; may change while the server serves."""
        self.style = style
        self.good_for = good_for
        self._asked = 0
        self._written: dict[str, tuple[int, str, Place]] = {}

    def count_request(self) -> None:
        """Count a request for a page, by which tokens grow old."""
        self._asked += 1

    def forget(self) -> None:
        """Let no opaque token be good any more."""
        self._written = {}

    def write(self, path: str, place: Place) -> str:
        """Write a token; `place` tells all that any style may name."""
        if self.style == "opaque":
            token = f"PX{secrets.token_hex(12)}"
            self._written[token] = (self._asked, path, place)
            return token
        position = place.position or ""
        if self.style == "position":
            return write_token(path, position, place.state)
        row = position.rpartition("_")[2]
        kind, name = ("R", row) if self.style == "row" else ("N", str(place.offset))
        body = f"P{kind}{place.state}_{name}"
        return f"{body}.{_seal(path, body)}"

    def read(self, path: str, token: str) -> Place | None:
        """Read a token; nothing if it is damaged, of another listing, or too old."""
        if token in self._written:
            asked, listing, place = self._written[token]
            is_old = self.good_for is not None and self._asked - asked > self.good_for
            return None if is_old or listing != path else place
        match = NAMED.fullmatch(token)
        if match is None or match["seal"] != _seal(path, match["body"]):
            return read_token(path, token)
        state: State = "before" if match["state"] == "before" else "active"
        if match["kind"] == "R":
            return Place(None, state, row=match["name"])
        return Place(None, state, int(match["name"]))


def write_token(path: str, position: str, state: State = "active") -> str:
    """Write a page token: state, time and SID (docs/api.md §2.4), then a seal against damage."""
    body = f"PT{state}_{position}"
    return f"{body}.{_seal(path, body)}"


def read_token(path: str, token: str) -> Place | None:
    """Read a page token; nothing if it is damaged or of another listing."""
    match = TOKEN.fullmatch(token)
    if match is None or match["seal"] != _seal(path, match["body"]):
        return None
    return Place(match["position"], match["state"])  # type: ignore[arg-type]


def _seal(path: str, body: str) -> str:
    return urlsafe_b64encode(crc32(f"{path} {body}".encode()).to_bytes(4, "big")).decode()
