"""OAuth tokens for an app's credentials: they expire, and can be revoked (docs/api.md §4.2)."""

import threading
import time
from collections.abc import Mapping, Sequence
from secrets import token_urlsafe

from etl.simulator.replies import Reply, error, json_reply
from etl.simulator.world import World


class Tokens:
    """The tokens that were granted. Each opens the world of the app that asked for it."""

    def __init__(self, seconds: float = 3600) -> None:
        """Let tokens live so long; may be changed while the server serves."""
        self.seconds = seconds
        self.said_seconds: float | None = None
        """What is said of their life, where it is not the truth."""
        self.granted = 0
        self._lock = threading.Lock()
        self._known: dict[str, tuple[World, float]] = {}

    def grant(self, form: Mapping[str, Sequence[str]], worlds: Sequence[World]) -> Reply:
        """Answer a request for a token."""
        given = {name: values[0] for name, values in form.items()}
        if given.get("grant_type") != "client_credentials":
            return error(20001, "grant_type is not client_credentials")
        pair = (given.get("client_id"), given.get("client_secret"))
        for world in worlds:
            if pair == (world.client_id, world.client_secret):
                return self._grant(world)
        return error(20003)

    def opened_by(self, token: str) -> World | None:
        """Find the world that a token opens, if it is still good."""
        with self._lock:
            world, until = self._known.get(token, (None, 0.0))
        return world if time.monotonic() < until else None

    def expire(self) -> None:
        """Take all tokens back, whatever was said of their life."""
        with self._lock:
            self._known = {}

    def _grant(self, world: World) -> Reply:
        token = token_urlsafe(48)
        with self._lock:
            self.granted += 1
            self._known[token] = (world, time.monotonic() + self.seconds)
        said = self.seconds if self.said_seconds is None else self.said_seconds
        return json_reply({"access_token": token, "token_type": "Bearer", "expires_in": said})
