"""A Singer tap for bindings on Meltano's SDK; its output is piped into target-postgres."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

import requests
from singer_sdk import RESTStream, Tap
from singer_sdk import typing as th
from singer_sdk.authenticators import BasicAuthenticator
from singer_sdk.pagination import BaseHATEOASPaginator

TEXTS = (
    "account_sid", "chat_service_sid", "credential_sid", "endpoint", "identity", "binding_type", "url",
)  # fmt: skip
SCHEMA = th.PropertiesList(
    th.Property("sid", th.StringType, required=True),
    *(th.Property(name, th.StringType) for name in TEXTS),
    th.Property("date_created", th.DateTimeType),
    th.Property("date_updated", th.DateTimeType),
    th.Property("message_types", th.ArrayType(th.StringType)),
).to_dict()


class NextPage(BaseHATEOASPaginator):
    """Follows ``meta.next_page_url``."""

    def get_next_url(self, response: requests.Response) -> str | None:
        url: str | None = response.json()["meta"]["next_page_url"]
        return url


class BindingsStream(RESTStream):
    """The bindings of every configured service; one partition a service."""

    name = "bindings"
    path = "/v1/Services/{service_sid}/Bindings"
    primary_keys = ("sid",)
    records_jsonpath = "$.bindings[*]"
    schema = SCHEMA

    @property
    def url_base(self) -> str:
        return str(self.config["base_url"])

    @property
    def partitions(self) -> list[dict[str, str]]:
        return [{"service_sid": sid} for sid in self.config["services"]]

    @property
    def authenticator(self) -> BasicAuthenticator:
        return BasicAuthenticator(username="user", password="secret")

    def get_new_paginator(self) -> NextPage:
        return NextPage()

    def get_url_params(self, context: Any, next_page_token: Any) -> dict[str, Any]:
        if next_page_token:
            return dict(parse_qsl(next_page_token.query))
        return {"PageSize": self.config["page_size"]}

    def parse_response(self, response: requests.Response) -> Iterable[dict[str, Any]]:
        yield from response.json()["bindings"]


class BindingsTap(Tap):
    """Reads bindings."""

    name = "tap-bindings"
    config_jsonschema = th.PropertiesList(
        th.Property("base_url", th.StringType, required=True),
        th.Property("services", th.ArrayType(th.StringType), required=True),
        th.Property("page_size", th.IntegerType, default=100),
    ).to_dict()

    def discover_streams(self) -> list[BindingsStream]:
        return [BindingsStream(self)]


if __name__ == "__main__":
    BindingsTap.cli()
