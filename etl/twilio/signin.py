"""How an account signs in: by HTTP Basic, or by OAuth tokens, renewed in time (docs/api.md §4)."""

import re
import threading
import time
from base64 import b64encode
from functools import partial
from importlib.metadata import version
from typing import Protocol
from urllib.parse import urlsplit

import httpx
import msgspec

from etl import config, errors
from etl.telemetry.limits import Overdue, within
from etl.twilio.unreachable import HTTPX_ERRORS

_TOKEN_PATH = "/v2/token"  # noqa: S105 - a path
_LARGEST_ANSWER_BYTES = 256 * 1024
_LONGEST_MARGIN_SECONDS = 60.0
_SHARE_OF_LIFE = 0.2
_SHORTEST_LIFE_SECONDS = 60.0  # of the API's tokens; taken where an answer does not say
_is_token = re.compile(r"[!-~]{1,65536}").fullmatch


class SignIn(Protocol):
    """What goes into the header `Authorization`. Safe to share between threads."""

    def header(self, seconds: float, /) -> str:
        """Return the header of the next request; finding it out may take so long.

        Raises:
            SourceError: there is none.
        """

    def accepted(self, header: str, /) -> None:
        """Note that the API has taken a header."""

    def replaces(self, header: str, /) -> bool:
        """Return whether there may be another header, after the API refused this one."""


def sign_in(account: config.Account) -> SignIn:
    """Return how `account` signs in."""
    return ClientCredentials(account) if account.client_id is not None else Basic(account)


class Basic:
    """An API key and its secret, or the account's SID and auth token."""

    def __init__(self, account: config.Account) -> None:
        user, password = account.credentials
        self._header = "Basic " + b64encode(f"{user}:{password}".encode()).decode("ascii")

    def header(self, _seconds: float, /) -> str:
        return self._header

    def accepted(self, _header: str, /) -> None:
        pass

    def replaces(self, _header: str, /) -> bool:
        return False


class _Token(msgspec.Struct):
    header: str
    good_until: float
    """By the monotonic clock; from then on the next one is asked for."""
    on_trial: bool
    """It replaced one that was refused, and has not been taken yet."""


class _Granted(msgspec.Struct):
    access_token: str
    expires_in: float | None = None


class ClientCredentials:
    """Bearer tokens of an OAuth app: renewed before they end, and once when one is refused."""

    def __init__(self, account: config.Account) -> None:
        self._origin = account.token_origin
        self._login = account.credentials
        self._lock = threading.Lock()
        self._token: _Token | None = None
        self._refused = False

    def header(self, seconds: float) -> str:
        until = time.monotonic() + seconds
        with self._lock:
            if self._token is None or time.monotonic() >= self._token.good_until:
                self._token = self._fetch(max(0.01, until - time.monotonic()))
                self._refused = False
            return self._token.header

    def accepted(self, header: str) -> None:
        token = self._token
        if token is not None and token.on_trial and token.header == header:
            token.on_trial = False

    def replaces(self, header: str) -> bool:
        """Return whether a new token may help; not when this one replaced another just now."""
        with self._lock:
            if self._token is None or self._token.header != header:
                return True
            if self._token.on_trial:
                return False
            self._token, self._refused = None, True
            return True

    def _fetch(self, seconds: float) -> _Token:
        asked_at = time.monotonic()
        try:
            status, body = within(seconds, partial(self._post, seconds), "token")
        except (*HTTPX_ERRORS, UnicodeError, Overdue) as cause:
            error = errors.Unavailable(
                f"{self._origin}, which grants the tokens, cannot be reached "
                f"({type(cause).__name__}): "
                "check this machine's network, and the firewalls and any proxy between"
            )
            error.transient = True
            raise error from None
        if status != 200:
            raise self._refusal(status)
        granted = self._read(body)
        life = granted.expires_in if granted.expires_in is not None else _SHORTEST_LIFE_SECONDS
        margin = min(_LONGEST_MARGIN_SECONDS, life * _SHARE_OF_LIFE)
        header = f"Bearer {granted.access_token}"
        return _Token(header, asked_at + life - margin, on_trial=self._refused)

    def _post(self, seconds: float) -> tuple[int, bytes]:
        user, password = self._login
        form = {"grant_type": "client_credentials", "client_id": user, "client_secret": password}
        headers = {
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"bindings-etl/{version('bindings-etl')} httpx/{httpx.__version__}",
        }
        url = self._origin + _TOKEN_PATH
        through_proxies = urlsplit(url).scheme == "https"
        body = b""
        with (
            httpx.Client(timeout=seconds, trust_env=through_proxies) as client,
            client.stream("POST", url, data=form, headers=headers) as answer,
        ):
            for piece in answer.iter_raw():
                body += piece
                if len(body) > _LARGEST_ANSWER_BYTES:
                    raise httpx.RemoteProtocolError("too large")
            return answer.status_code, body

    def _read(self, body: bytes) -> _Granted:
        try:
            granted = msgspec.json.decode(body, type=_Granted)
        except (msgspec.DecodeError, UnicodeDecodeError):
            granted = None
        if granted is None or not _is_token(granted.access_token):
            raise errors.NotTheApi(
                f"what {self._origin} answered holds no token; check base_url and any proxy between"
            )
        return granted

    def _refusal(self, status: int) -> errors.SourceError:
        if status in (400, 401, 403):
            return errors.CredentialsRefused(
                f"{self._origin} grants no token (HTTP {status}): "
                "check client_id and client_secret, and that the OAuth app is active"
            )
        error = errors.Unavailable(
            f"{self._origin} grants no token at the moment (HTTP {status}): try again later"
        )
        error.transient = status in (408, 429) or status >= 500
        return error
