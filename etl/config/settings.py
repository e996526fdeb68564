"""The settings of the configuration file, and the rules between them (config.example.yaml).

pydantic checks them; pydantic-settings would add reading of the environment by key, which nobody
wants here, and 0.03 s of every start.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from etl.config.urls import check_hook, check_origin, is_loopback

DEFAULT_BASE_URL = "https://conversations.twilio.com"
_TOKEN_ORIGIN = "https://oauth.twilio.com"  # noqa: S105 - an address

# A region without an edge is routed to US1 silently (docs/api.md §4.4), so it gets its own edge.
DEFAULT_EDGES = {"us1": "ashburn", "ie1": "dublin", "au1": "sydney", "jp1": "tokyo"}

ServiceSid = Annotated[str, Field(pattern=r"^IS[0-9a-fA-F]{32}$")]
Label = Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
HostPart = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
# A wait that clocks and sockets can still count; no request waits for ever (docs/promises.md §7).
LONGEST_SECONDS = 366 * 86_400
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)\s*([smhd])")
_SECONDS_OF = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def _read_duration(value: Any) -> Any:
    """Return the seconds of text such as `5m`; plain numbers are returned as they are."""
    if not isinstance(value, str) or re.fullmatch(r"\s*[-+]?[\d.]+(e[-+]?\d+)?\s*", value):
        return value
    duration = _DURATION.fullmatch(value.strip())
    if duration is None:
        raise ValueError("must be a number of seconds, or a duration such as 30s, 5m, 2h or 1d")
    return float(duration[1]) * _SECONDS_OF[duration[2]]


def _duration_schema(**least: float) -> WithJsonSchema:
    number = {"type": "number", "maximum": LONGEST_SECONDS, **least}
    return WithJsonSchema(
        {"anyOf": [number, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*[smhd]$"}]}
    )


Duration = Annotated[float, BeforeValidator(_read_duration)]
Seconds = Annotated[Duration, Field(gt=0, le=LONGEST_SECONDS), _duration_schema(exclusiveMinimum=0)]
SecondsFromZero = Annotated[Duration, Field(ge=0, le=LONGEST_SECONDS), _duration_schema(minimum=0)]
SecondsFromOne = Annotated[Duration, Field(ge=1, le=LONGEST_SECONDS), _duration_schema(minimum=1)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where no switch belongs: pydantic would read them as 1 and 0."""
        if (
            isinstance(value, bool)
            and cls.model_fields[str(info.field_name)].annotation is not bool
        ):
            raise ValueError("is true or false where another kind of value belongs")
        return value


class Account(_Section):
    """One Twilio account and what to read of it."""

    name: Label = Field(description="Label stored with every row; unique.")
    account_sid: str = Field(
        pattern=r"^AC[0-9a-fA-F]{32}$", description="Owner expected on every row."
    )
    api_key: SecretStr | None = Field(
        default=None, description="SK… SID of an API key of this account; goes with api_secret."
    )
    api_secret: SecretStr | None = None
    client_id: SecretStr | None = Field(
        default=None,
        description="OAuth 2.0 client credentials, with client_secret, in place of api_key.",
    )
    client_secret: SecretStr | None = None
    auth_token: SecretStr | None = Field(
        default=None, description="In place of api_key and api_secret."
    )
    base_url: str | None = Field(
        default=None, description=f"Default {DEFAULT_BASE_URL}. http only for loopback."
    )
    region: HostPart | None = None
    edge: HostPart | None = None
    services: Literal["all"] | Annotated[list[ServiceSid], Field(min_length=1)] = "all"
    page_size: int = Field(
        default=100, ge=1, le=1000, description="Follows the server down when it allows less."
    )
    concurrency: int = Field(
        default=4,
        ge=1,
        le=64,
        description="Requests in flight for this account, all its shards (--shard) together.",
    )
    chains_per_service: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Chains of pages that read one listing side by side, within concurrency.",
    )
    partition_by_type: bool = Field(
        default=False, description="One chain of pages per known binding type."
    )

    @field_validator("api_key", "api_secret", "client_id", "client_secret", "auth_token")
    @classmethod
    def _no_stray_whitespace(cls, value: SecretStr | None) -> SecretStr | None:
        """Refuse a secret with whitespace, a listed cause of 401 (docs/api.md §4.1)."""
        if value is not None and (
            not value.get_secret_value() or re.search(r"\s", value.get_secret_value())
        ):
            raise ValueError("is empty or holds whitespace; check how the secret was stored")
        return value

    @field_validator("base_url")
    @classmethod
    def _safe_origin(cls, value: str | None) -> str | None:
        return None if value is None else check_origin(value)

    # What follows looks at several settings. A rule stands at the last of them, where the others
    # are known, and not at the whole section: there it would be heard only after every other
    # fault is mended.

    @field_validator("api_secret")
    @classmethod
    def _key_and_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "api_key" in info.data and (info.data["api_key"] is None) != (value is None):
            raise ValueError("api_key and api_secret go together; one of them is missing")
        return value

    @field_validator("client_secret")
    @classmethod
    def _client_and_secret(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "client_id" in info.data and (info.data["client_id"] is None) != (value is None):
            raise ValueError("client_id and client_secret go together; one of them is missing")
        return value

    @field_validator("auth_token")
    @classmethod
    def _one_way_to_sign_in(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        pairs = {"api_key", "api_secret", "client_id", "client_secret"}
        ways = [info.data.get("api_key"), info.data.get("client_id"), value]
        if pairs <= info.data.keys() and sum(way is not None for way in ways) != 1:
            raise ValueError(
                "give either api_key with api_secret, "
                "or client_id with client_secret, or auth_token"
            )
        return value

    @field_validator("edge")
    @classmethod
    def _one_place(cls, value: str | None, info: ValidationInfo) -> str | None:
        region = info.data.get("region")
        if info.data.get("base_url") and (region or value):
            raise ValueError("give either base_url, or region and edge")
        if region and not value and region not in DEFAULT_EDGES:
            raise ValueError(
                f"region {region} needs an edge: Twilio routes a region without one to US1"
            )
        return value

    @property
    def origin(self) -> str:
        """Scheme, host and port that this account's credentials may go to, and nothing else."""
        if self.base_url:
            return self.base_url
        if not self.region and not self.edge:
            return DEFAULT_BASE_URL
        region = self.region or "us1"
        return f"https://conversations.{self.edge or DEFAULT_EDGES[region]}.{region}.twilio.com"

    @property
    def token_origin(self) -> str:
        """Where client_id and client_secret may go; a simulator grants tokens itself."""
        is_simulator = is_loopback(urlsplit(self.origin).hostname or "")
        return self.origin if is_simulator else _TOKEN_ORIGIN

    @property
    def credentials(self) -> tuple[str, str]:
        """User and password of HTTP Basic, or client_id and client_secret."""
        if self.client_id is not None and self.client_secret is not None:
            return self.client_id.get_secret_value(), self.client_secret.get_secret_value()
        if self.auth_token is not None:
            return self.account_sid, self.auth_token.get_secret_value()
        assert self.api_key is not None  # noqa: S101 - the validator above guarantees the pair
        assert self.api_secret is not None  # noqa: S101
        return self.api_key.get_secret_value(), self.api_secret.get_secret_value()


class Place(NamedTuple):
    """What a URL says of a warehouse."""

    url: str
    """In SQLAlchemy's form."""
    engine: str
    has_schemas: bool
    has_data_path: bool
    asks_for_password: bool
    has_password: bool


ReadUrl = Callable[[str], Place]
"""What knows databases, and raises `ValueError` where a URL names none that can be a warehouse."""


class Warehouse(_Section):
    """Where the rows go."""

    url: SecretStr = Field(
        description="sqlite, postgresql, mysql/mariadb, duckdb, snowflake, ducklake+postgresql or "
        "ducklake+duckdb (the catalog), in SQLAlchemy's URL form."
    )
    database_schema: str | None = Field(
        default=None, alias="schema", description="Where the engine has schemas."
    )
    password_command: list[SecretStr] | None = Field(
        default=None,
        description="[program, argument, …]: prints the password; asked at each new connection.",
    )
    data_path: str | None = Field(
        default=None,
        description="Where rows lie in files apart from the database: a folder, or s3://…",
    )

    @field_validator("url")
    @classmethod
    def _known_place(cls, value: SecretStr, info: ValidationInfo) -> SecretStr:
        return SecretStr(_place(value, info).url)

    @field_validator("password_command", mode="before")
    @classmethod
    def _words_of_a_command(cls, value: Any) -> Any:
        words_given = isinstance(value, list) and all(isinstance(w, str | SecretStr) for w in value)
        if value is not None and not (words_given and value and value[0]):
            raise ValueError("must be a list: [program, argument, …]; numbers among them in quotes")
        return value

    @field_validator("password_command")
    @classmethod
    def _the_only_password(
        cls, value: list[SecretStr] | None, info: ValidationInfo
    ) -> list[SecretStr] | None:
        if value is None or "url" not in info.data:
            return value
        place = _place(info.data["url"], info)
        if not place.asks_for_password:
            raise ValueError(f"{place.engine} asks for no password; leave it null")
        if place.has_password:
            raise ValueError("give either a password in warehouse.url, or password_command")
        return value

    @field_validator("data_path")
    @classmethod
    def _where_there_are_data_files(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "url" in info.data:
            place = _place(info.data["url"], info)
            if not place.has_data_path:
                raise ValueError(f"{place.engine} keeps no data files apart; leave it null")
        return value

    @field_validator("database_schema")
    @classmethod
    def _where_there_are_schemas(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and "url" in info.data:
            place = _place(info.data["url"], info)
            if not place.has_schemas:
                raise ValueError(f"{place.engine} has no schemas; leave it null")
        return value


def _place(url: SecretStr, info: ValidationInfo) -> Place:
    """Return what the URL says; where nobody reads URLs, it is taken as it stands."""
    read_url: ReadUrl | None = info.context
    text = url.get_secret_value()
    if read_url is None:
        return Place(
            text,
            "",
            has_schemas=True,
            has_data_path=True,
            asks_for_password=True,
            has_password=False,
        )
    return read_url(text)


class Deletes(_Section):
    """What happens to a binding that a complete scan did not see."""

    mode: Literal["soft", "hard", "ignore"] = "soft"
    max_fraction: float = Field(default=0.2, ge=0, le=1)
    min_rows: int = Field(default=20, ge=0)
    confirm: bool = True
    confirm_limit: int = Field(default=200, ge=1)


class Retry(_Section):
    """How long one request may be tried."""

    attempts: int = Field(default=6, ge=1, le=100)
    timeout_seconds: Seconds = 30
    max_wait_seconds: Seconds = 30
    max_total_seconds: Seconds = 300


class Run(_Section):
    """Bounds of one run."""

    deadline_seconds: Seconds | None = None
    resume_within_seconds: SecondsFromZero = 3600
    lease_seconds: SecondsFromOne = 120


_HOOK_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "array", "items": {"type": "string"}},
        {"type": "null"},
    ]
}
HookUrls = Annotated[list[SecretStr], WithJsonSchema(_HOOK_SCHEMA)]


class Hooks(_Section):
    """Who is told how a run ended. The URLs are secrets: whoever knows one may post there."""

    on_success: HookUrls = Field(
        default=[], description="A URL or a list: POST of the run's JSON when the exit code is 0."
    )
    on_failure: HookUrls = Field(default=[], description="The same when it is not 0.")
    format: Literal["json", "slack"] = "json"

    @field_validator("on_success", "on_failure", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> list[Any]:
        """Return a list of URLs, of one too; null and empty variables are left out."""
        given = value if isinstance(value, list) else [value]
        urls = [url for url in given if url not in (None, "")]
        if not all(isinstance(url, str | SecretStr) for url in urls):
            raise ValueError("must be a URL, a list of URLs, or null")
        return urls

    @field_validator("on_success", "on_failure")
    @classmethod
    def _safe_places(cls, value: list[SecretStr]) -> list[SecretStr]:
        for url in value:
            check_hook(url.get_secret_value())
        return value


class Normalize(_Section):
    """How names are brought into one form."""

    legacy_message_types: Literal["map", "keep"] = "map"


class Privacy(_Section):
    """What is stored of the two columns that name people."""

    identity: Literal["keep", "hmac", "drop"] = "keep"
    endpoint: Literal["keep", "hmac", "drop"] = "keep"
    key: SecretStr | None = None
    old_keys: list[SecretStr] = Field(
        default=[], description="Keys of the past, for erase and re-keying only."
    )

    @field_validator("old_keys")
    @classmethod
    def _no_empty_key(cls, value: list[SecretStr]) -> list[SecretStr]:
        """Refuse an empty key, as of an empty variable: rows hashed by it would never be found."""
        if not all(key.get_secret_value() for key in value):
            raise ValueError("holds an empty key; give each key that was in use, or leave it out")
        return value

    service_names: Literal["keep", "drop"] = Field(
        default="keep", description="Friendly names of services."
    )

    @field_validator("key")
    @classmethod
    def _hmac_needs_a_key(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if "hmac" in info.data.values() and not (value and value.get_secret_value()):
            raise ValueError("hmac needs a key; give privacy.key, e.g. ${PRIVACY_KEY}")
        return value

    @property
    def key_bytes(self) -> bytes:
        """The key; empty where there is none."""
        return self.key.get_secret_value().encode() if self.key else b""

    @property
    def known_keys(self) -> list[bytes]:
        """The key and those of the past."""
        keys = [self.key, *self.old_keys]
        return [key.get_secret_value().encode() for key in keys if key is not None]


def _accounts_either_way(schema: dict[str, Any]) -> None:
    schema["required"].remove("accounts")
    schema["anyOf"] = [
        {"required": [name], "properties": {name: {"type": kind}}}
        for name, kind in (("accounts", "array"), ("accounts_from", "string"))
    ]


class Settings(_Section):
    """The whole file."""

    model_config = ConfigDict(json_schema_extra=_accounts_either_way)

    accounts: list[Account] = Field(min_length=1)
    accounts_from: str | None = Field(
        default=None,
        description="More accounts, a file each, e.g. accounts.d/*.yaml beside this file.",
    )
    warehouse: Warehouse
    deletes: Deletes = Deletes()
    retry: Retry = Retry()
    run: Run = Run()
    hooks: Hooks = Hooks()
    normalize: Normalize = Normalize()
    privacy: Privacy = Privacy()
