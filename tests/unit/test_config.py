"""The configuration file: every setting, every rule, every fault in one message (config.example.yaml)."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml
from pydantic import BaseModel

from etl.config import Account, Deletes, Privacy, Retry, Run, Settings, load
from etl.config.faults import sentence
from etl.errors import ConfigurationError
from etl.warehouse.engines import read_url

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
DURATION_PATTERN = r"^\d+(\.\d+)?\s*[smhd]$"
AC = "AC" + "a" * 32
IS = "IS" + "b" * 32
ACCOUNT: dict[str, Any] = {"name": "main", "account_sid": AC, "auth_token": "t0ken"}
MINIMAL: dict[str, Any] = {"accounts": [ACCOUNT], "warehouse": {"url": "sqlite:///bindings.db"}}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def read(file: Path, document: Any, **environment: str) -> Settings:
    file.write_text(
        document if isinstance(document, str) else yaml.safe_dump(document), encoding="utf-8"
    )
    return load(file, read_url, environment)


def faults(file: Path, document: Any, **environment: str) -> dict[str, str]:
    """The faults of a file by path."""
    with pytest.raises(ConfigurationError) as caught:
        read(file, document, **environment)
    head, *lines = str(caught.value).split("\n  ")
    assert head == f"{file} has {len(lines)} fault{'s' if len(lines) > 1 else ''}:"
    return dict(line.split(": ", 1) for line in lines)


def with_account(**changes: Any) -> dict[str, Any]:
    account = {**ACCOUNT, **changes}
    return {
        **MINIMAL,
        "accounts": [{name: value for name, value in account.items() if value is not ...}],
    }


# --- the example file and the model say the same ---


def settings_of(model: type[BaseModel]) -> dict[str, Any]:
    return {field.alias or name: field for name, field in model.model_fields.items()}


def test_the_example_loads_and_shows_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example is what everyone copies: a value there that is not the default would be a lie."""
    example = load(EXAMPLE, read_url, {"TWILIO_API_KEY": "SK1", "TWILIO_API_SECRET": "s"})
    account = example.accounts[0]
    minimal = Settings.model_validate(
        {
            "accounts": [
                {
                    "name": account.name,
                    "account_sid": account.account_sid,
                    "api_key": "SK1",
                    "api_secret": "s",
                }
            ],
            "warehouse": {"url": example.warehouse.url},
        }
    )
    assert account.origin == minimal.accounts[0].origin
    shown = example.model_dump()
    shown["accounts"][0]["base_url"] = None
    assert shown == minimal.model_dump()


def test_the_example_names_every_setting_and_no_other() -> None:
    """A setting that the example leaves out is never found; one that it invents fails at once."""
    text = EXAMPLE.read_text(encoding="utf-8")
    document = yaml.safe_load(text)
    assert list(document) == list(settings_of(Settings))
    for name, field in settings_of(Settings).items():
        if name not in ("accounts", "accounts_from"):
            assert list(document[name]) == list(settings_of(field.annotation)), name
    commented_out = [
        line.strip(" #").split(":")[0] for line in text.splitlines() if line.startswith("    # ")
    ]
    assert {*document["accounts"][0], *commented_out} == {*settings_of(Account)}


def test_the_schema_names_every_setting() -> None:
    """Editors complete and check by the schema."""
    schema = json.dumps(Settings.model_json_schema())
    for model in (Settings, Account, Deletes, Retry, Run, Privacy):
        assert all(f'"{name}"' in schema for name in settings_of(model))


# --- faults come together ---


def test_all_faults_come_in_one_message_each_with_its_path(file: Path) -> None:
    """The operator mends a file once, not once per fault (docs/commands.md, exit 2)."""
    document = {
        "accounts": [
            {
                "name": "main",
                "account_sid": "AC1",
                "api_key": "${UNSET_KEY}",
                "page_size": 1001,
                "concurency": 4,
            },
            {
                "name": "main",
                "account_sid": AC,
                "api_secret": "s",
                "region": "br1",
                "services": ["IS1", IS, IS],
            },
            {
                "name": "third",
                "account_sid": AC,
                "base_url": "http://example.com",
                "edge": "dublin",
                "services": [IS],
            },
        ],
        "warehouse": {"url": 5, "shema": None},
        "deletes": {"mode": "sotf", "max_fraction": 1.5, "confirm": "perhaps"},
        "retry": {"attempts": "many", "timeout_seconds": 0},
        "run": [],
        "privacy": {"identity": "hmac", "endpoint": "hide"},
        "extra": {},
    }
    found = faults(file, document)
    assert set(found) == {
        "accounts[0].account_sid",
        "accounts[0].api_key",
        "accounts[0].api_secret",
        "accounts[0].page_size",
        "accounts[0].concurency",
        "accounts[1].name",
        "accounts[1].api_secret",
        "accounts[1].edge",
        "accounts[1].services",
        "accounts[1].services[0]",
        "accounts[2].auth_token",
        "accounts[2].base_url",
        "accounts[2].services",
        "warehouse.url",
        "warehouse.shema",
        "deletes.mode",
        "deletes.max_fraction",
        "deletes.confirm",
        "retry.attempts",
        "retry.timeout_seconds",
        "run",
        "privacy.endpoint",
        "privacy.key",
        "extra",
    }
    assert "UNSET_KEY" in found["accounts[0].api_key"]
    assert "did you mean `concurrency`?" in found["accounts[0].concurency"]


WRITTEN = f"""\
accounts:
  - name: main
    account_sid: AC1
    api_key: k
    concurency: 4
    page_size: 1001
    services:
      - {IS}
      - CH1
  - account_sid: {AC}
    auth_token: t
warehouse:
  url: sqlite:///b.db
  shema: x
retry: {{attempts: 2.5, timeout_seconds: soon}}
deletes:
  mode: sotf
  confirm: perhaps
  max_fraction: -1
colour: blue
run:
  lease_seconds: 0
"""


def test_each_fault_has_its_line_and_says_what_belongs_there(file: Path) -> None:
    """A path alone has to be counted out by hand among a hundred accounts."""
    assert faults(file, WRITTEN) == {
        "accounts[0].account_sid": (
            "must be an account SID: it starts with AC, followed by 32 hexadecimal digits (line 3)"
        ),
        "accounts[0].api_secret": (
            "api_key and api_secret go together; one of them is missing (line 2)"
        ),
        "accounts[0].concurency": "this key is not known; did you mean `concurrency`? (line 5)",
        "accounts[0].page_size": "must be 1000 or less (line 6)",
        "accounts[0].services[1]": (
            "must be a service SID: it starts with IS, followed by 32 hexadecimal digits (line 9)"
        ),
        "accounts[1].name": "this key is missing (line 10)",
        "warehouse.shema": "this key is not known; did you mean `schema`? (line 14)",
        "retry.attempts": "must be a whole number (line 15)",
        "retry.timeout_seconds": (
            "must be a number of seconds, or a duration such as 30s, 5m, 2h or 1d (line 15)"
        ),
        "deletes.mode": "must be 'soft', 'hard' or 'ignore' (line 17)",
        "deletes.confirm": "must be true or false (line 18)",
        "deletes.max_fraction": "must be 0 or more (line 19)",
        "colour": "this key is not known; remove it or correct its spelling (line 20)",
        "run.lease_seconds": "must be 1 or more (line 22)",
    }


def test_every_form_of_a_value_has_words(file: Path) -> None:
    """A regular expression is no answer to somebody who pasted the wrong SID."""
    schema = json.dumps(Settings.model_json_schema())
    patterns = set(re.findall(r'"pattern": ("(?:[^"\\\\]|\\\\.)*")', schema))
    forms = {json.loads(pattern) for pattern in patterns} - {DURATION_PATTERN}
    assert len(forms) >= 4
    for pattern in forms:
        assert sentence("string_pattern_mismatch", {"pattern": pattern}, "").startswith("must ")


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("5m", 300), ("30s", 30), ("1.5h", 5400), ("2 d", 172_800), (" 90s ", 90), ("45", 45), (7, 7)],
)
def test_durations_may_be_written_with_their_unit(written: Any, seconds: float, file: Path) -> None:
    """`3600` is counted on fingers, and one 0 too many is not seen."""
    document = {
        **MINIMAL,
        "retry": {"max_total_seconds": written},
        "run": {"lease_seconds": written},
    }
    settings = read(file, document)
    assert (settings.retry.max_total_seconds, settings.run.lease_seconds) == (seconds, seconds)
    assert (
        read(file, {**MINIMAL, "run": {"deadline_seconds": "${T}"}}, T="5m").run.deadline_seconds
        == 300
    )


@pytest.mark.parametrize("written", ["5 minutes", "5M", "m", "-5m", "1h30m", "inf", "", "5w"])
def test_what_is_no_duration_is_refused(written: str, file: Path) -> None:
    """Guessed wrong, a deadline of minutes becomes one of months."""
    document = {**MINIMAL, "run": {"deadline_seconds": written}}
    assert faults(file, document).keys() == {"run.deadline_seconds"}


def test_what_is_missing_is_named(file: Path) -> None:
    """An empty mapping is the first file that many write."""
    assert faults(file, {"accounts": [{}]}).keys() == {
        "accounts[0].name",
        "accounts[0].account_sid",
        "accounts[0].auth_token",
        "warehouse",
    }
    assert faults(file, {"accounts": [], "warehouse": {}}).keys() == {"accounts", "warehouse.url"}


def test_an_unknown_value_is_not_judged_again(file: Path) -> None:
    """A variable that is not set is one fault; that its placeholder is no number would be a second for the same."""
    document = {
        **with_account(page_size="${SIZE}", services=["${SERVICE}"]),
        "retry": {"attempts": "${ATTEMPTS}"},
    }
    found = faults(file, document)
    assert found.keys() == {"accounts[0].page_size", "accounts[0].services[0]", "retry.attempts"}
    assert all("not set" in sentence for sentence in found.values())


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("retry", "attempts", True),
        ("retry", "attempts", 2.5),
        ("retry", "attempts", 0),
        ("retry", "attempts", None),
        ("retry", "timeout_seconds", "soon"),
        ("retry", "timeout_seconds", True),
        ("retry", "timeout_seconds", float("inf")),
        ("retry", "timeout_seconds", float("nan")),
        ("retry", "timeout_seconds", -1),
        ("retry", "max_total_seconds", 1e300),
        ("run", "deadline_seconds", 0),
        ("run", "resume_within_seconds", float("inf")),
        ("run", "lease_seconds", 0),
        ("deletes", "max_fraction", float("nan")),
        ("deletes", "max_fraction", -0.1),
        ("deletes", "min_rows", -1),
        ("deletes", "min_rows", False),
        ("deletes", "confirm", None),
        ("deletes", "confirm_limit", 0),
        ("deletes", "mode", None),
        ("deletes", "mode", "SOFT"),
        ("normalize", "legacy_message_types", "drop"),
        ("privacy", "identity", False),
        ("privacy", "key", 5),
        ("warehouse", "url", None),
        ("warehouse", "url", ["sqlite://"]),
        ("warehouse", "schema", 5),
    ],
)
def test_a_wrong_value_is_refused(section: str, name: str, value: Any, file: Path) -> None:
    """A setting that means something else than was written shows only when it does harm."""
    document = {**MINIMAL, section: {**MINIMAL.get(section, {}), name: value}}
    assert faults(file, document).keys() == {f"{section}.{name}"}


@pytest.mark.parametrize(
    "changes",
    [
        {"name": ""},
        {"name": "two words"},
        {"name": "x" * 65},
        {"name": 5},
        {"account_sid": "AC" + "g" * 32},
        {"account_sid": AC + "\n"},
        {"account_sid": None},
        {"page_size": 0},
        {"page_size": 1001},
        {"page_size": True},
        {"concurrency": 0},
        {"partition_by_type": "sometimes"},
        {"services": "some"},
        {"services": []},
        {"services": IS},
        {"services": None},
        {"services": {"all": True}},
    ],
)
def test_a_wrong_setting_of_an_account_is_refused(changes: dict[str, Any], file: Path) -> None:
    """Each has its own path, so that it is found among many accounts."""
    (path,) = {where.split("[", 2)[1] for where in faults(file, with_account(**changes))}
    assert path.startswith(f"0].{next(iter(changes))}")


def test_settings_from_the_environment_take_their_type(file: Path) -> None:
    """What a placeholder brings in is text; a number or a switch must still be possible."""
    document = {
        **with_account(page_size="${SIZE}", partition_by_type="${PARTS}"),
        "deletes": {"max_fraction": "${SHARE:-0.5}"},
    }
    settings = read(file, document, SIZE="50", PARTS="true")
    assert (
        settings.accounts[0].page_size,
        settings.accounts[0].partition_by_type,
        settings.deletes.max_fraction,
    ) == (
        50,
        True,
        0.5,
    )


# --- signing in ---


@pytest.mark.parametrize(
    ("keys", "path"),
    [
        ({}, "auth_token"),
        ({"api_key": "k"}, "api_secret"),
        ({"api_secret": "s"}, "api_secret"),
        ({"api_key": "k", "auth_token": "t"}, "api_secret"),
        ({"api_key": "k", "api_secret": "s", "auth_token": "t"}, "auth_token"),
        ({"client_id": "c"}, "client_secret"),
        ({"client_secret": "s"}, "client_secret"),
        ({"client_id": "c", "client_secret": "s", "auth_token": "t"}, "auth_token"),
        ({"client_id": "c", "client_secret": "s", "api_key": "k", "api_secret": "s"}, "auth_token"),
        ({"client_id": "c", "client_secret": "s\n"}, "client_secret"),
        ({"api_key": "", "api_secret": "s"}, "api_key"),
        ({"api_key": "k", "api_secret": "with space"}, "api_secret"),
        ({"api_key": "k\n", "api_secret": "s"}, "api_key"),
        ({"auth_token": "t\u00a0"}, "auth_token"),
        ({"auth_token": "\tt"}, "auth_token"),
    ],
)
def test_there_is_one_way_to_sign_in(keys: dict[str, str], path: str, file: Path) -> None:
    """Half a pair, two ways at once, stray blanks: a 401 that says nothing (docs/api.md §4.1)."""
    assert faults(file, with_account(**{"auth_token": ..., **keys})).keys() == {
        f"accounts[0].{path}"
    }


def test_the_credentials_are_those_of_the_file(file: Path) -> None:
    """A key goes with its secret, a token with the account's SID; mixed up, both are refused."""
    assert read(file, MINIMAL).accounts[0].credentials == (AC, "t0ken")
    keys = read(file, with_account(auth_token=..., api_key="SK1", api_secret="s"))
    assert keys.accounts[0].credentials == ("SK1", "s")
    app = read(file, with_account(auth_token=..., client_id="OQ1", client_secret="s"))
    assert app.accounts[0].credentials == ("OQ1", "s")


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        (..., "https://oauth.twilio.com"),
        ("https://api.example.com", "https://oauth.twilio.com"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("https://localhost:8443", "https://localhost:8443"),
    ],
)
def test_only_a_simulator_grants_tokens_itself(base_url: Any, origin: str, file: Path) -> None:
    """Whoever can set base_url must not get the secret of the app as well (docs/promises.md §6)."""
    account = with_account(auth_token=..., client_id="OQ1", client_secret="s", base_url=base_url)
    assert read(file, account).accounts[0].token_origin == origin


# --- where credentials go ---


@pytest.mark.parametrize(
    ("base_url", "origin"),
    [
        (..., "https://conversations.twilio.com"),
        (None, "https://conversations.twilio.com"),
        ("https://conversations.twilio.com/", "https://conversations.twilio.com"),
        ("HTTPS://Conversations.Twilio.COM", "https://conversations.twilio.com"),
        ("https://sim_1.example:8443", "https://sim_1.example:8443"),
        ("https://192.0.2.7", "https://192.0.2.7"),
        ("https://[2001:db8::1]:8443/", "https://[2001:db8::1]:8443"),
        ("http://localhost:8000", "http://localhost:8000"),
        ("http://127.0.0.1", "http://127.0.0.1"),
        ("http://127.8.9.1:1", "http://127.8.9.1:1"),
        ("http://[::1]:65535", "http://[::1]:65535"),
    ],
)
def test_base_url_is_an_origin(base_url: Any, origin: str, file: Path) -> None:
    """Everything that is sent goes there; two writings of one place must be one."""
    assert read(file, with_account(base_url=base_url)).accounts[0].origin == origin


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "conversations.twilio.com",
        "ftp://conversations.twilio.com",
        "file:///etc/passwd",
        "https://",
        "https:///v1",
        "https://host/v1",
        "https://host//",
        "https://host?x=1",
        "https://host?",
        "https://host#",
        "https://user@host",
        "https://user:pass@host",
        "https://@host",
        "https://:@host",
        "https://host:abc",
        "https://host:",
        "https://host:0",
        "https://host:65536",
        "https://host:-1",
        "https://host\\evil",
        "https://ho st",
        " https://host",
        "https://host\n",
        "https://host%2e",
        "https://münchen.example",
        "https://[bad",
        "https://[::1",
        "https://.host",
        "http://example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://10.0.0.1",
        "http://0.0.0.0",
        "http://[::2]",
    ],
)
def test_base_url_is_nothing_but_an_origin(base_url: str, file: Path) -> None:
    """Plain http shows the key to everyone on the way, and a URL that two libraries read in two ways sends it astray."""
    assert faults(file, with_account(base_url=base_url)).keys() == {"accounts[0].base_url"}


@pytest.mark.parametrize(
    ("region", "edge", "host"),
    [
        ("ie1", "dublin", "conversations.dublin.ie1.twilio.com"),
        ("ie1", None, "conversations.dublin.ie1.twilio.com"),
        ("au1", None, "conversations.sydney.au1.twilio.com"),
        ("jp1", None, "conversations.tokyo.jp1.twilio.com"),
        ("us1", None, "conversations.ashburn.us1.twilio.com"),
        ("ie1", "frankfurt", "conversations.frankfurt.ie1.twilio.com"),
        ("br1", "sao-paulo", "conversations.sao-paulo.br1.twilio.com"),
        (None, "sydney", "conversations.sydney.us1.twilio.com"),
    ],
)
def test_region_and_edge_name_a_host(
    region: str | None, edge: str | None, host: str, file: Path
) -> None:
    """A region without an edge is routed to US1, where the key is refused (docs/api.md §4.4)."""
    assert (
        read(file, with_account(region=region, edge=edge)).accounts[0].origin == f"https://{host}"
    )


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"region": "br1"}, "edge"),
        ({"region": "ie1", "base_url": "https://host"}, "edge"),
        ({"edge": "dublin", "base_url": "https://host"}, "edge"),
        ({"region": "ie1.evil.example"}, "region"),
        ({"edge": "dublin/"}, "edge"),
        ({"region": "IE1"}, "region"),
        ({"region": ""}, "region"),
        ({"edge": "dublin\n"}, "edge"),
    ],
)
def test_there_is_one_place(changes: dict[str, str], path: str, file: Path) -> None:
    """Two answers to where the credentials go, or a host made of odd pieces, must not be settled by guess."""
    assert faults(file, with_account(**changes)).keys() == {f"accounts[0].{path}"}


# --- the warehouse ---


@pytest.mark.parametrize(
    "url",
    [
        "sqlite:///bindings.db",
        "sqlite:////var/lib/bindings-etl/bindings.db",
        "sqlite+pysqlite:///C:/bindings.db",
        "sqlite:///file:bindings.db?mode=rwc&uri=true",
        "duckdb:///bindings.duckdb",
        "postgresql://etl:s3cret@db.internal/analytics",
        "postgresql+psycopg://etl:s/e#c?r%40et@db.internal:5432/analytics?sslmode=require",
        "postgresql://etl@server:s3cret@db.internal/analytics",
        "postgresql:///analytics?host=/var/run/postgresql",
        "postgresql://[::1]:5432/analytics",
        "mysql://etl@db.internal/analytics?ssl_ca=/etc/a@b.pem",
        "mariadb+pymysql://etl:@db.internal:3306/analytics",
    ],
)
def test_urls_of_every_engine_are_taken(url: str, file: Path) -> None:
    """A URL that SQLAlchemy takes and this check does not would shut its owner out."""
    assert (
        read(file, {**MINIMAL, "warehouse": {"url": url}}).warehouse.url.get_secret_value() == url
    )
    assert sa.make_url(url)


def test_the_short_name_of_postgresql_is_taken(file: Path) -> None:
    """Providers hand out `postgres://`, which SQLAlchemy does not know."""
    url = read(file, {**MINIMAL, "warehouse": {"url": "postgres://u:p@h/postgres"}}).warehouse.url
    assert url.get_secret_value() == "postgresql://u:p@h/postgres"


@pytest.mark.parametrize(
    ("written", "taken"),
    [
        ("u:p@h1:5432,h2:5433/db", "u:p@/db?host=h1:5432&host=h2:5433"),
        ("h1,h2:6432", "/?host=h1:5432&host=h2:6432"),
        (
            "u@h1:1,h2:2,h3:3/db?target_session_attrs=primary",
            "u@/db?host=h1:1&host=h2:2&host=h3:3&target_session_attrs=primary",
        ),
    ],
)
def test_several_hosts_of_postgresql_are_taken_as_libpq_lists_them(
    file: Path, written: str, taken: str
) -> None:
    """The form that PostgreSQL's own documents show was refused with a hint about the password."""
    settings = read(file, {**MINIMAL, "warehouse": {"url": f"postgresql://{written}"}})
    assert settings.warehouse.url.get_secret_value() == f"postgresql://{taken}"


def test_several_nodes_of_a_cluster_are_listed_likewise(file: Path) -> None:
    """Each engine has its own usual port, and a list of hosts says it of none."""
    settings = read(file, {**MINIMAL, "warehouse": {"url": "mysql://u:p@h1,h2:3307/db?ssl_ca=x"}})
    taken = "mysql://u:p@/db?host=h1:3306&host=h2:3307&ssl_ca=x"
    assert settings.warehouse.url.get_secret_value() == taken


@pytest.mark.parametrize(
    ("url", "word"),
    [
        ("", "not a database URL"),
        ("hunter2", "not a database URL"),
        ("hunter2:x", "not a database URL"),
        ("hunter2://x", "engines"),
        ("oracle://etl:hunter2@host/x", "engines"),
        ("postgresql+hunter2://host/x", "driver"),
        ("sqlite+aiosqlite:///hunter2.db", "driver"),
        ("sqlite://", "memory"),
        ("sqlite:///", "memory"),
        ("sqlite:///:memory:", "memory"),
        ("duckdb:///:memory:hunter2", "memory"),
        ("sqlite:///file:hunter2?uri=true&mode=memory", "memory"),
        ("sqlite://hunter2.db", "names no file"),
        ("postgresql://etl:hun@ter2@host/x", "%40"),
        ("postgresql://etl:hunter2@host:port/x", "host:port"),
        ("mysql://etl:hunter2@host:/x", "host:port"),
    ],
)
def test_a_url_that_names_no_warehouse_is_told_with_the_other_faults(
    url: str, word: str, file: Path
) -> None:
    """Found only by the run, it would come after every other fault was mended, and `config show` would have called it valid."""
    found = faults(file, {**MINIMAL, "warehouse": {"url": url}, "colour": "blue"})
    assert found.keys() == {"warehouse.url", "colour"}
    assert word in found["warehouse.url"]
    assert "hun" not in found["warehouse.url"]


def test_a_schema_where_there_are_none_is_told_with_the_other_faults(file: Path) -> None:
    """SQLite has no schemas: the tables would not stand where they are looked for."""
    warehouse = {"url": "sqlite:///bindings.db", "schema": "twilio"}
    assert faults(file, {**MINIMAL, "warehouse": warehouse, "colour": "blue"}).keys() == {
        "warehouse.schema",
        "colour",
    }
    for url in ("postgres://host/x", "mysql+pymysql://host/x", "duckdb:///x"):
        assert (
            read(
                file, {**MINIMAL, "warehouse": {**warehouse, "url": url}}
            ).warehouse.database_schema
            == "twilio"
        )


# --- names and services are claimed once ---


def test_an_account_s_name_is_unique(file: Path) -> None:
    """The name is stored with every row; two accounts of one name could not be told apart."""
    other = {**ACCOUNT, "account_sid": "AC" + "c" * 32}
    found = faults(file, {**MINIMAL, "accounts": [ACCOUNT, other]})
    assert found.keys() == {"accounts[1].name"}
    assert "main" in found["accounts[1].name"]


def test_a_service_is_listed_once(file: Path) -> None:
    """Read twice in one run, the two scans would be in each other's way."""
    assert faults(file, with_account(services=[IS, IS])).keys() == {"accounts[0].services"}
    accounts = [{**ACCOUNT, "services": [IS]}, {**ACCOUNT, "name": "other", "services": [IS]}]
    found = faults(file, {**MINIMAL, "accounts": accounts})
    assert found.keys() == {"accounts[1].services"}
    assert IS in found["accounts[1].services"]


# --- privacy ---


@pytest.mark.parametrize("key", [..., None, "", "${EMPTY}"])
@pytest.mark.parametrize("column", ["identity", "endpoint"])
def test_hmac_needs_a_key(column: str, key: Any, file: Path) -> None:
    """Hashed without a key, identities are found again by trying names."""
    privacy = {column: "hmac"} | ({} if key is ... else {"key": key})
    assert faults(file, {**MINIMAL, "privacy": privacy}, EMPTY="").keys() == {"privacy.key"}
    assert read(file, {**MINIMAL, "privacy": {column: "hmac", "key": "k"}}).privacy.key is not None


@pytest.mark.parametrize("keys", [["k", ""], ["${EMPTY}"], "k", [5]])
def test_an_old_key_that_is_none_is_refused(keys: Any, file: Path) -> None:
    """A variable that holds nothing would leave the rows of that key behind, and erase would say that it is done."""
    found = faults(file, {**MINIMAL, "privacy": {"old_keys": keys}}, EMPTY="")
    assert {path.partition("[")[0] for path in found} == {"privacy.old_keys"}
    assert read(file, MINIMAL).privacy.old_keys == []


# --- secrets ---


def test_secrets_show_nowhere(file: Path) -> None:
    """Settings are logged, dumped and shown in error messages; none of that may be a way out for a key."""
    document = {
        "accounts": [
            with_account(auth_token=..., api_key="hunter2-key", api_secret="hunter2-secret")[
                "accounts"
            ][0],
            {**ACCOUNT, "name": "second", "auth_token": "hunter2-token"},
        ],
        "warehouse": {"url": "postgresql://user:hunter2@host/db"},
        "privacy": {"identity": "hmac", "key": "hunter2-hmac", "old_keys": ["hunter2-old"]},
    }
    settings = read(file, document)
    for shown in (
        repr(settings),
        str(settings),
        str(settings.model_dump()),
        settings.model_dump_json(),
        f"{settings.accounts}",
    ):
        assert "hunter2" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "accounts: [{name: m, account_sid: AC1, auth_token: 'hunter2 hunter2', api_key: [hunter2], api_secret: hunter2}]",
        "accounts: [{auth_token: hunter2, base_url: 'https://hunter2:hunter2@host'}]",
        "warehouse: {url: [hunter2]}\nprivacy: {key: [hunter2]}",
        "accounts: hunter2\nwarehouse: hunter2\nprivacy: hunter2\nretry: {attempts: hunter2}",
        "accounts: [hunter2]\nwarehouse: {url: 'x${hunter2!}'}",
        "accounts: [{auth_token: *hunter2}]",
        "accounts: [{auth_token: !hunter2 x}]",
        "accounts: [{auth_token: !hunter2!x y}]",
        "accounts: [{auth_token: %hunter2}]",
        "accounts: [{auth_token: &hunter2 x, api_key: &hunter2 y, api_secret: *hunter3}]",
        "hunter2",
    ],
)
def test_no_message_holds_a_secret(text: str, file: Path) -> None:
    """The message of a faulty file goes to the scheduler's mail."""
    with pytest.raises(ConfigurationError) as caught:
        read(file, text)
    assert "hunter" not in str(caught.value)


# --- files that cannot be read ---


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("accounts:\n  - name: main\n   bad: 1\n", 3),
        ("a: b: c\n", 1),
        ("accounts: [\n", 2),
        ("a: 1\n\tb: 2\n", 2),
        ("a: 'open\n", 2),
        ("a: 1\nb: *x\n", 2),
    ],
)
def test_broken_yaml_is_named_with_its_line(text: str, line: int, file: Path) -> None:
    """Without a line a slip in a long file is hard to find."""
    with pytest.raises(ConfigurationError, match=rf"not valid YAML at line {line}, column \d+: \w"):
        read(file, text)


@pytest.mark.parametrize(
    "text",
    [
        "a: 2023-13-45\n",
        "a: 0b_\n",
        "a: !!int x\n",
        "[" * 5000,
        "a: \x00\n",
        "? [a]\n: b\n",
        "a: !!python/object:os.system {}\n",
    ],
)
def test_yaml_that_yaml_chokes_on_is_a_fault_of_the_file(text: str, file: Path) -> None:
    """Anything but a ConfigurationError would be told as a fault of the program, exit 1."""
    with pytest.raises(ConfigurationError, match="not valid YAML"):
        read(file, text)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- a\n", "text\n", "5\n", "null\n"])
def test_a_file_that_holds_no_mapping_is_named(text: str, file: Path) -> None:
    """An empty file is a usual slip of templating."""
    with pytest.raises(ConfigurationError, match="must hold a mapping"):
        read(file, text)


def test_a_key_that_stands_twice_is_told_with_its_path_and_line(file: Path) -> None:
    """YAML takes the last without a word: half of the accounts would never be read again."""
    text = (
        "accounts: []\n"
        + yaml.safe_dump(with_account())
        + "retry:\n  attempts: 2\n  attempts: 3\ncolour: blue\n"
    )
    found = faults(file, text)
    assert found.keys() == {"accounts", "retry.attempts", "colour"}
    assert "at line 2;" in found["accounts"]


def test_keys_may_be_merged_and_repeated_by_alias(file: Path) -> None:
    """`<<` is how big files repeat themselves; that its keys are there already is its very sense."""
    other = "AC" + "c" * 32
    settings = read(
        file,
        f"""
accounts:
  - &first {{name: main, account_sid: {AC}, auth_token: t, page_size: 50}}
  - {{<<: *first, name: other, account_sid: {other}}}
  - &third {{<<: *first, name: third}}
  - {{<<: *third, name: fourth}}
warehouse: {{url: "sqlite:///bindings.db"}}
""",
    )
    assert [(account.name, account.page_size) for account in settings.accounts] == [
        ("main", 50),
        ("other", 50),
        ("third", 50),
        ("fourth", 50),
    ]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: &x [*x]\n", "itself"),
        ("a: &x {b: [*x]}\n", "itself"),
        ("a: 1\n---\nb: 2\n", "more than one document"),
        ("a: 1\n--- hunter2\n", "more than one document"),
    ],
)
def test_a_file_that_is_not_one_plain_document_is_told(text: str, word: str, file: Path) -> None:
    """Neither an endless file nor one whose second half is never read is a fault of the program."""
    with pytest.raises(
        ConfigurationError, match=rf"not valid YAML at line \d+, column \d+: .*{word}"
    ) as caught:
        read(file, text)
    assert "hunter" not in str(caught.value)


def test_bytes_that_are_no_text_are_a_fault_of_the_file(file: Path) -> None:
    """A secret that was stored wrongly must not come out as a fault of the program while it is being sent."""
    found = faults(file, with_account(auth_token="${TOKEN}"), TOKEN="\udcffhunter2")
    assert found.keys() == {"accounts[0].auth_token"}
    assert "TOKEN is not UTF-8" in found["accounts[0].auth_token"]
    assert "hunter" not in found["accounts[0].auth_token"]


def test_a_key_that_is_no_text_is_a_fault(file: Path) -> None:
    """YAML reads `on:` and `1:` as other things than text."""
    assert len(faults(file, "2: x\ntrue: y\n" + yaml.safe_dump(MINIMAL))) == 2


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    """It is the first message that a new user sees."""
    with pytest.raises(
        ConfigurationError, match=r"there is no configuration file .*bindings-etl init"
    ):
        load(tmp_path / "config.yaml", read_url)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A folder in its place or wrong bytes must not end in a traceback."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path, read_url)
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(tmp_path / "config.yaml", read_url)


def test_a_configuration_without_end_is_a_fault() -> None:
    """`--config /dev/zero`, a slip of a template, was read until memory had an end."""
    with pytest.raises(ConfigurationError, match="neither a regular file nor a pipe"):
        load(Path("/dev/zero"), read_url, {})


# --- the command that prints the warehouse's password ---


@pytest.mark.parametrize(
    ("url", "command", "said"),
    [
        ("postgresql://u@h/d", "print-password --now", "must be a list"),
        ("postgresql://u@h/d", [], "must be a list"),
        ("postgresql://u@h/d", ["print-password", 7], "must be a list"),
        ("postgresql://u:s3cret@h/d", ["print-password"], "give either"),
        ("sqlite:///bindings.db", ["print-password"], "sqlite asks for no password"),
    ],
)
def test_a_password_command_is_a_list_and_the_only_password(
    file: Path, url: str, command: Any, said: str
) -> None:
    """A line for a shell, or a password that is never used, would be found out at the first run."""
    warehouse = {"url": url, "password_command": command}
    told = faults(file, {**MINIMAL, "warehouse": warehouse})
    assert list(told) == ["warehouse.password_command"]
    assert said in told["warehouse.password_command"]


@pytest.mark.parametrize("url", ["postgresql://u@h:5432/d", "mysql://u@h/d?ssl_ca=a:b@c"])
def test_a_password_command_goes_with_a_url_without_a_password(file: Path, url: str) -> None:
    """A port, or an option of the driver, is no password."""
    warehouse = {"url": url, "password_command": ["print-password", "--host", "${HOST}"]}
    command = read(file, {**MINIMAL, "warehouse": warehouse}, HOST="h").warehouse.password_command
    assert [word.get_secret_value() for word in command or ()] == ["print-password", "--host", "h"]


# --- where rows lie apart from the database ---


def test_a_data_path_is_for_engines_that_have_one(file: Path) -> None:
    """Whoever names a folder for SQLite would look for the rows there."""
    warehouse = {"url": "sqlite:///bindings.db", "data_path": "data"}
    told = faults(file, {**MINIMAL, "warehouse": warehouse})
    assert "keeps no data files apart" in told["warehouse.data_path"]


@pytest.mark.parametrize("path", [None, "data", "s3://bucket/bindings"])
def test_a_lake_takes_a_data_path(file: Path, path: str | None) -> None:
    """A folder, a bucket, or none where the catalog knows it."""
    warehouse = {"url": "ducklake+postgresql://u@h/d", "data_path": path}
    assert read(file, {**MINIMAL, "warehouse": warehouse}).warehouse.data_path == path


# --- accounts in files of their own ---


def account_file(file: Path, stem: str, **settings: Any) -> Path:
    folder = file.parent / "accounts.d"
    folder.mkdir(exist_ok=True)
    place = folder / f"{stem}.yaml"
    place.write_text(yaml.safe_dump({**ACCOUNT, "name": stem, **settings}, sort_keys=False))
    return place


FROM_FOLDER = {"accounts_from": "accounts.d/*.yaml", "warehouse": MINIMAL["warehouse"]}


@pytest.mark.parametrize("more", [{}, {"accounts": [ACCOUNT]}])
def test_accounts_come_from_a_folder(
    file: Path, more: dict[str, Any], tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    """Hundreds of tenants are kept by hundreds of files, and the program is started from anywhere."""
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    for name in ("tenant-2", "tenant-10", "tenant-1"):
        account_file(file, name, auth_token="${TOKEN}", region=None)
    account_file(file, ".half-written").write_text("{")
    settings = read(file, FROM_FOLDER | more, TOKEN="t0ken")
    names = [account.name for account in settings.accounts]
    assert names == [*(["main"] if more else []), "tenant-1", "tenant-10", "tenant-2"]
    assert settings.accounts[-1].credentials == (AC, "t0ken")


def test_faults_of_all_files_come_together_each_with_its_file_and_path(file: Path) -> None:
    """Mended one by one, a hundred files would take a hundred tries."""
    account_file(file, "a", page_size=0, auth_token="${NONE}")
    account_file(file, "b", concurency=3)
    account_file(file, "c").write_text("name: c\nname: c\n")
    account_file(file, "d").write_text("- d")
    account_file(file, "e").write_text("name: [")
    account_file(file, "f", name="main")
    with pytest.raises(ConfigurationError) as caught:
        read(file, FROM_FOLDER | {"accounts": [ACCOUNT]})
    head, *told = str(caught.value).split("\n  ")
    folder = file.parent / "accounts.d"
    expected = {
        "accounts.d/a.yaml: auth_token: the environment variable NONE is not set",
        "accounts.d/a.yaml: page_size: must be 1 or more (line 4)",
        "accounts.d/b.yaml: concurency: this key is not known; did you mean `concurrency`? (line 4)",
        "accounts.d/c.yaml: name: stands twice, again at line 2; keep one (line 1)",
        "accounts.d/c.yaml: account_sid: this key is missing",
        f"accounts_from: {folder}/d.yaml must hold a mapping with one account's settings",
        f"accounts_from: {folder}/e.yaml is not valid YAML at line",
        "accounts.d/f.yaml: name: the name main belongs to another account already (line 1)",
    }
    assert {line for line in expected if not any(one.startswith(line) for one in told)} == set()
    assert head.startswith(f"{file} has {len(told)} faults")


def test_a_folder_without_accounts_is_one_fault(file: Path) -> None:
    """A mount that is not there must not be told as a key that is missing."""
    assert faults(file, FROM_FOLDER) == {
        "accounts_from": "no file matches; it is taken from this file's folder (line 1)"
    }
