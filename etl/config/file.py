"""Reads the configuration file: fills its placeholders, adds account files, checks all of it."""

import os
from collections import Counter
from collections.abc import Mapping
from glob import escape, glob
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from etl.config.document import read_document
from etl.config.faults import Fault, line_note, validation_faults
from etl.config.interpolation import interpolate
from etl.config.settings import ReadUrl, Settings
from etl.errors import ConfigurationError


def load(path: Path, read_url: ReadUrl, environment: Mapping[str, str] = os.environ) -> Settings:
    """Return the settings in the file at `path`, with its placeholders filled.

    Raises:
        ConfigurationError: with every fault of the file, one line each.
    """
    document = read_document(path, "at least accounts and warehouse")
    faults = document.faults
    filled = interpolate(document.content, environment, faults)
    files, accounts = _read_accounts(filled, path.parent, faults)
    for place, account in accounts.items():
        filled["accounts"] = [
            *filled.get("accounts", []),
            interpolate(account, environment, faults, place),
        ]
    return _validated(str(path), filled, read_url, faults, document.lines, files)


def read_portable(path: Path, environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return what the file at `path` and its account files say, with placeholders unfilled.

    So it can be sent to another machine, whose own environment and files fill them.

    Raises:
        ConfigurationError: a file cannot be read.
    """
    content = dict(read_document(path, "at least accounts and warehouse").content)
    faults: list[Fault] = []
    filled = interpolate(content, environment, faults)
    _, accounts = _read_accounts(filled, path.parent, faults)
    if accounts:
        content["accounts"] = [*content.get("accounts", []), *accounts.values()]
        del content["accounts_from"]
    return content


def load_portable(
    content: dict[str, Any], read_url: ReadUrl, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Return the settings in what `read_portable` returned, filled by this machine.

    Raises:
        ConfigurationError: with every fault, one line each.
    """
    faults: list[Fault] = []
    filled = interpolate(content, environment, faults)
    return _validated("the configuration", filled, read_url, faults, {}, {})


class _AccountFile(NamedTuple):
    """A file that holds one account."""

    name: str
    lines: Mapping[str, int]


def _validated(
    name: str,
    filled: dict[str, Any],
    read_url: ReadUrl,
    faults: list[Fault],
    lines: Mapping[str, int],
    account_files: Mapping[str, _AccountFile],
) -> Settings:
    faults += _claimed_twice(filled.get("accounts"))
    settings = None
    try:
        settings = Settings.model_validate(filled, context=read_url)
    except ValidationError as invalid:
        faults += _new_faults(invalid, filled, faults)
    if settings is None or faults:
        told = "".join(f"\n  {_told(fault, lines, account_files)}" for fault in faults)
        raise ConfigurationError(
            f"{name} has {len(faults)} fault{'s' if len(faults) > 1 else ''}:{told}"
        )
    return settings


def _read_accounts(
    filled: Mapping[str, Any], folder: Path, faults: list[Fault]
) -> tuple[dict[str, _AccountFile], dict[str, dict[str, Any]]]:
    """Return the files that `accounts_from` names, and the accounts in them, by their path."""
    pattern, listed = filled.get("accounts_from"), filled.get("accounts", [])
    if not isinstance(pattern, str) or not isinstance(listed, list):
        return {}, {}
    # Unlike pathlib's it takes whole paths too, and passes over hidden files.
    found = sorted(glob(str(Path(escape(str(folder))) / pattern)))  # noqa: PTH207
    if not found:
        message = "no file matches; it is taken from this file's folder"
        faults.append(Fault("accounts_from", message))
    files: dict[str, _AccountFile] = {}
    accounts: dict[str, dict[str, Any]] = {}
    for file in map(Path, found):
        place = f"accounts[{len(listed) + len(files)}]"
        try:
            document = read_document(file, "one account's settings, such as name")
        except ConfigurationError as unread:
            faults.append(Fault("accounts_from", str(unread)))
            continue
        faults += [Fault(f"{place}.{path}", message) for path, message in document.faults]
        files[place] = _AccountFile(os.path.relpath(file, folder), document.lines)
        accounts[place] = document.content
    return files, accounts


def _new_faults(
    invalid: ValidationError, filled: Mapping[str, Any], known: list[Fault]
) -> list[Fault]:
    """Return what validation adds; of a value that is unknown nothing more need be said."""
    paths = {fault.path for fault in known}
    if "accounts_from" in filled and not filled.get("accounts"):
        paths.add("accounts")
    return [fault for fault in validation_faults(invalid, Settings) if fault.path not in paths]


def _told(fault: Fault, lines: Mapping[str, int], files: Mapping[str, _AccountFile]) -> str:
    account, _, inside = fault.path.partition(".")
    if account not in files:
        return f"{fault.path or '(top level)'}: {fault.message}{line_note(fault.path, lines)}"
    name, lines = files[account]
    return f"{name}: {inside or '(top level)'}: {fault.message}{line_note(inside, lines)}"


def _claimed_twice(accounts: Any) -> list[Fault]:
    """Return names and services that two accounts claim, or one twice.

    They are looked for before anything is checked, so that no other fault hides them.
    """
    faults: list[Fault] = []
    claimed: set[str] = set()
    for index, account in enumerate(accounts if isinstance(accounts, list) else []):
        if not isinstance(account, dict):
            continue
        path, claims = f"accounts[{index}]", _claims_of(account)
        if doubled := [claim for claim, (_, count) in claims.items() if count > 1]:
            message = f"lists {', '.join(doubled)} more than once"
            faults.append(Fault(f"{path}.services", message))
        faults += [
            Fault(f"{path}.{claims[claim][0]}", f"{claim} belongs to another account already")
            for claim in sorted(claims.keys() & claimed)
        ]
        claimed |= claims.keys()
    return faults


def _claims_of(account: Mapping[str, Any]) -> dict[str, tuple[str, int]]:
    """Return by what no other account may claim the setting that claims it, and how often."""
    name, services = account.get("name"), account.get("services")
    sids = services if isinstance(services, list) else []
    listed = Counter(sid for sid in sids if isinstance(sid, str))
    named = {f"the name {name}": ("name", 1)} if isinstance(name, str) else {}
    return named | {sid: ("services", count) for sid, count in listed.items()}
