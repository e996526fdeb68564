"""A client whose transport is a function of the test."""

from collections.abc import Callable
from typing import Any

import httpx

from etl import config
from etl.stopping import Stop
from etl.twilio.client import Client

ORIGIN = "https://conversations.twilio.com"
ACCOUNT = "AC" + "0" * 32
KEY = "SK" + "2" * 32
SERVICE = "IS" + "1" * 32
BINDINGS = f"{ORIGIN}/v1/Services/{SERVICE}/Bindings"

Handler = Callable[[httpx.Request], httpx.Response]


class Unhurried(Stop):
    """Waits are noted and take no time."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.check()
        self.waits.append(seconds)


def client_of(handler: Handler, stop: Stop | None = None, **retry: Any) -> Client:
    """Return a client of the API that `handler` plays."""
    account = config.Account.model_validate(
        {"name": "main", "account_sid": ACCOUNT, "api_key": KEY, "api_secret": "s3cret"}
    )
    policy = config.Retry(**retry)
    return Client(account, policy, stop or Unhurried(), httpx.MockTransport(handler))


def in_turn(*answers: httpx.Response | Exception) -> Handler:
    """Return a handler that gives `answers` one after the other, errors by raising them."""
    left = iter(answers)

    def handle(_request: httpx.Request) -> httpx.Response:
        answer = next(left)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return handle


def page(
    *rows: Any, next_link: str | None = None, key: str = "bindings", page_size: int = 50
) -> httpx.Response:
    """Return a page of a listing."""
    meta = {"key": key, "next_page_url": next_link, "page_size": page_size}
    return httpx.Response(200, json={key: list(rows), "meta": meta})


def refusal(status: int, code: int | None = None, **headers: str) -> httpx.Response:
    """Return an error in the API's usual shape."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json={"code": code, "status": status}, headers=named)
