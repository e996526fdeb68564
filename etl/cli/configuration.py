"""`config schema` and `config show`."""

import json
import re
from typing import Any

import click
import yaml
from pydantic import SecretStr

from etl.cli.options import Command, Common, Group
from etl.cli.output import say
from etl.config import Settings


@click.group(
    "config", cls=Group, short_help="The configuration's schema and the effective settings."
)
def config() -> None:
    """Look at the configuration."""


@config.command("schema", cls=Command)
def schema() -> None:
    """Print the JSON Schema of the file, for editors and for CI."""
    say(json.dumps(_as_written(Settings.model_json_schema()), indent=2))


@config.command("show", cls=Command)
@click.pass_obj
def show(common: Common) -> None:
    """Print the effective settings, defaults filled in and secrets masked."""
    from etl.warehouse.engines import masked

    settings = common.settings()
    document = _masked(settings.model_dump(by_alias=True))
    document["warehouse"]["url"] = masked(settings.warehouse.url.get_secret_value())
    for shown, account in zip(document["accounts"], settings.accounts, strict=True):
        if not account.region and not account.edge:
            shown["base_url"] = account.origin
        if account.api_key and _is_key_sid(account.api_key.get_secret_value()):
            shown["api_key"] = account.api_key.get_secret_value()
    say(yaml.safe_dump(document, sort_keys=False, allow_unicode=True).rstrip())


# The SID of a key is no secret, and tells which key is used; anything else in its place may be one.
_is_key_sid = re.compile(r"SK[0-9a-fA-F]{32}").fullmatch

_PLACEHOLDER = {"type": "string", "pattern": r"\$\{"}
_ANNOTATIONS = frozenset({"title", "description", "default"})


def _as_written(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of the file as written: with placeholders, and empty optional sections."""
    written: dict[str, Any] = _with_placeholders(schema)
    required = schema["required"]
    sections = written["properties"]
    written["properties"] = {
        name: node if name in required else _or(node, {"type": "null"})
        for name, node in sections.items()
    }
    return written


def _with_placeholders(node: Any) -> Any:
    if isinstance(node, list):
        return [_with_placeholders(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node.get("type") in ("string", "integer", "number", "boolean"):
        return _or(node, _PLACEHOLDER)
    return {key: _with_placeholders(value) for key, value in node.items()}


def _or(node: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that takes either, with the title and default of the first."""
    said = {key: value for key, value in node.items() if key in _ANNOTATIONS}
    return said | {
        "anyOf": [{key: value for key, value in node.items() if key not in _ANNOTATIONS}, other]
    }


def _masked(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _masked(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_masked(value) for value in node]
    return "********" if isinstance(node, SecretStr) else node


commands: dict[str, click.Command] = {"config": config}
