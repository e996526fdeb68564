"""Reads every page of every service: one httpx client, one thread a service, msgspec, nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import msgspec


class Binding(msgspec.Struct):
    sid: str
    account_sid: str
    chat_service_sid: str
    credential_sid: str
    date_created: str
    date_updated: str
    endpoint: str
    identity: str
    binding_type: str
    message_types: list[str]
    url: str


class Meta(msgspec.Struct):
    next_page_url: str | None


class Page(msgspec.Struct):
    bindings: list[Binding]
    meta: Meta


BASE_URL = os.environ["BENCH_BASE_URL"]
SERVICES = os.environ["BENCH_SERVICES"].split(",")
PAGE_SIZE = os.environ["BENCH_PAGE_SIZE"]


def fetch_pages(client: httpx.Client, service: str) -> Iterator[list[Binding]]:
    decoder = msgspec.json.Decoder(Page)
    url: str | None = f"{BASE_URL}/v1/Services/{service}/Bindings?PageSize={PAGE_SIZE}"
    while url:
        page = decoder.decode(client.get(url).content)
        yield page.bindings
        url = page.meta.next_page_url


def count_rows(client: httpx.Client, service: str) -> int:
    return sum(len(rows) for rows in fetch_pages(client, service))


def main() -> None:
    with httpx.Client(auth=("user", "secret")) as client, ThreadPoolExecutor(len(SERVICES)) as pool:
        print(sum(pool.map(lambda service: count_rows(client, service), SERVICES)))


if __name__ == "__main__":
    main()
