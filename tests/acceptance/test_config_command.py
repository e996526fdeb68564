"""`config schema` and `config show`."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from etl.config import load
from etl.warehouse.engines import read_url
from tests.acceptance.scenario import Scenario

ROOT = Path(__file__).parents[2]


def schema(scenario: Scenario) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(scenario.run("config", "schema").json)


def test_the_schema_takes_what_the_program_takes(scenario: Scenario) -> None:
    """An editor that underlines a good file is switched off, and then finds no bad one."""
    scenario.account |= {
        "account_sid": "${SID}",
        "page_size": "${SIZE:-100}",
        "services": ["${SERVICE}"],
        "partition_by_type": "${P}",
    }
    scenario.settings |= {
        "retry": {"attempts": "${N}", "max_wait_seconds": "${S}"},
        "privacy": None,
        "run": {"deadline_seconds": None, "lease_seconds": "2m"},
    }
    scenario.settings["deletes"] = {"mode": "${MODE:-soft}"}
    assert list(schema(scenario).iter_errors(scenario.settings)) == []
    assert (
        list(
            schema(scenario).iter_errors(
                yaml.safe_load((ROOT / "config.example.yaml").read_text(encoding="utf-8"))
            )
        )
        == []
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"warehouse": None},
        {"accounts": None},
        {"retry": {"attempts": "many"}},
        {"retry": {"attempts": 0}},
        {"retry": {"timeout_seconds": 0}},
        {"run": {"lease_seconds": "2 weeks"}},
        {"deletes": {"mode": "sotf"}},
        {"colour": "blue"},
        {"warehouse": {"shema": "x"}},
    ],
)
def test_the_schema_refuses_what_the_program_refuses(
    scenario: Scenario, changes: dict[str, Any]
) -> None:
    """With placeholders allowed everywhere, slips must still be seen."""
    assert list(schema(scenario).iter_errors(scenario.settings | changes))


@pytest.mark.parametrize(
    "place", [{}, {"base_url": None, "region": "ie1"}, {"base_url": None, "edge": "sydney"}]
)
def test_what_is_shown_can_be_fed_back(
    scenario: Scenario, place: dict[str, Any], tmp_path: Path
) -> None:
    """Who starts a new file from what is in force must not be told that it has faults."""
    scenario.account |= place
    shown = scenario.run("config", "show").out
    file = tmp_path / "shown.yaml"
    file.write_text(shown, encoding="utf-8")
    assert (
        load(file, read_url).accounts[0].origin
        == load(scenario.config_path, read_url).accounts[0].origin
    )


def test_the_sid_of_the_key_is_shown_and_a_secret_in_its_place_is_not(scenario: Scenario) -> None:
    """Which of several keys is in force is the first question after a 401."""
    scenario.account |= {"api_key": "SK" + "0a" * 16, "api_secret": "planted"}
    shown = yaml.safe_load(scenario.run("config", "show").out)["accounts"][0]
    assert (shown["api_key"], shown["api_secret"]) == ("SK" + "0a" * 16, "********")
    scenario.account |= {"api_key": "planted", "api_secret": "SK" + "0a" * 16}
    shown = yaml.safe_load(scenario.run("config", "show").out)["accounts"][0]
    assert (shown["api_key"], shown["api_secret"]) == ("********", "********")


def test_the_schema_takes_accounts_from_a_folder_alone(scenario: Scenario) -> None:
    """The editor of whoever keeps accounts in files of their own would mark the whole file."""
    others = {name: value for name, value in scenario.settings.items() if name != "accounts"}
    assert not list(schema(scenario).iter_errors(others | {"accounts_from": "accounts.d/*.yaml"}))
    assert list(schema(scenario).iter_errors(others))
