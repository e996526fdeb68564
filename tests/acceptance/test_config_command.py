"""`config schema` and `config show`."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from etl.config import load
from tests.acceptance.trial import Trial

ROOT = Path(__file__).parents[2]


def schema(trial: Trial) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(trial.run("config", "schema").json)


def test_the_schema_takes_what_the_program_takes(trial: Trial) -> None:
    """An editor that underlines a good file is switched off, and then finds no bad one."""
    trial.account |= {
        "account_sid": "${SID}",
        "page_size": "${SIZE:-100}",
        "services": ["${SERVICE}"],
        "partition_by_type": "${P}",
    }
    trial.settings |= {
        "retry": {"attempts": "${N}", "max_wait_seconds": "${S}"},
        "privacy": None,
        "run": {"deadline_seconds": None},
    }
    trial.settings["deletes"] = {"mode": "${MODE:-soft}"}
    assert list(schema(trial).iter_errors(trial.settings)) == []
    assert (
        list(
            schema(trial).iter_errors(
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
        {"deletes": {"mode": "sotf"}},
        {"colour": "blue"},
        {"warehouse": {"shema": "x"}},
    ],
)
def test_the_schema_refuses_what_the_program_refuses(trial: Trial, changes: dict[str, Any]) -> None:
    """With placeholders allowed everywhere, slips must still be seen."""
    assert list(schema(trial).iter_errors(trial.settings | changes))


@pytest.mark.parametrize(
    "place", [{}, {"base_url": None, "region": "ie1"}, {"base_url": None, "edge": "sydney"}]
)
def test_what_is_shown_can_be_fed_back(trial: Trial, place: dict[str, Any], tmp_path: Path) -> None:
    """Who starts a new file from what is in force must not be told that it has faults."""
    trial.account |= place
    shown = trial.run("config", "show").out
    file = tmp_path / "shown.yaml"
    file.write_text(shown, encoding="utf-8")
    assert load(file).accounts[0].origin == load(trial.config_path).accounts[0].origin
