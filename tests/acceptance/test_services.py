"""The services of an account: to whom they belong, and what becomes of them (contract §4, §5.3)."""

from collections.abc import Callable

import pytest

from etl.simulator import World
from tests.acceptance.trial import Trial

MakeTrial = Callable[..., Trial]

ON_BOTH = pytest.mark.parametrize("url_fixture", ["sqlite_url", "postgres18_url"])


@pytest.fixture
def stocked(url_fixture: str, make_trial: MakeTrial, request: pytest.FixtureRequest) -> Trial:
    """Two services, in the engine of the moment, that are not loaded yet."""
    return make_trial((30, 20), url=request.getfixturevalue(url_fixture), max_page_size=10)


def add_block(trial: Trial, name: str, *, first: bool = False, **changed: object) -> None:
    """One more block of the file, like that of the account `main` save for what is changed."""
    block = {**trial.account, **changed, "name": name}
    accounts = trial.settings["accounts"]
    trial.settings["accounts"] = [block, *accounts] if first else [*accounts, block]


def readers(trial: Trial) -> dict[str, set[str]]:
    """Under which accounts' names the rows of each service stand."""
    found: dict[str, set[str]] = {}
    rows = trial.query("SELECT DISTINCT account, chat_service_sid FROM bindings")
    for row in rows:
        found.setdefault(row["chat_service_sid"], set()).add(row["account"])
    return found


@ON_BOTH
def test_a_service_of_two_accounts_belongs_to_the_first_that_reads_it(stocked: Trial) -> None:
    """Both would take each other's lease and throw each other's stage away, run after run."""
    add_block(stocked, "again")
    for number in range(2):
        result = stocked.sync()
        told = {(one["account"], one["status"]): one for one in result.json["services"]}
        assert set(told) == {("main", "published"), ("again", "skipped")}
        assert told["again", "skipped"]["note"].startswith("account main reads this service")
        assert result.json["status"] == "succeeded"
        assert result.totals["inserted"] == (0 if number else 50)
    assert readers(stocked) == {sid: {"main"} for sid in stocked.world.services}
    assert stocked.query("SELECT count(*) AS n FROM binding_versions") == [{"n": 0}]
    stocked.assert_equal_to_world()


@ON_BOTH
@pytest.mark.parametrize("first", [False, True], ids=["below", "above"])
def test_a_copied_key_is_found_and_the_right_account_is_loaded(stocked: Trial, first: bool) -> None:
    """A copied line stopped every account, and nothing said which line it was."""
    add_block(stocked, "copy", first=first, account_sid=World(seed=9).account_sid)
    for _ in range(2):
        result = stocked.sync(expect=3)
        [failed] = [one for one in result.json["services"] if one["status"] == "failed"]
        assert (failed["account"], failed["error"]["type"]) == ("copy", "ConfigurationError")
        assert f"copy opens {stocked.world.account_sid}, which is account main" in str(failed)
        stocked.assert_equal_to_world()
    checked = stocked.run("check", "--json", expect=2)
    [fault] = [one for one in checked.json["findings"] if not one["ok"]]
    assert (fault["subject"], fault["name"]) == ("account", "copy")
    assert "which is account main" in fault["message"]


def test_check_tells_of_a_block_that_is_a_copy(make_trial: MakeTrial) -> None:
    """A block that reads nothing is a slip, which nobody sees in a run that succeeds."""
    trial = make_trial((3,))
    add_block(trial, "again")
    checked = trial.run("check", "--json", expect=2)
    [fault] = [one for one in checked.json["findings"] if not one["ok"]]
    assert fault["message"].startswith(
        "account again has the account_sid and the key of account main"
    )
    trial.settings["accounts"][1] |= {
        "api_key": None,
        "api_secret": None,
        "auth_token": trial.world.auth_token,
    }
    checked = trial.run("check", "--json")
    assert "so account again leaves it out" in checked.out


def test_an_account_that_lists_a_service_reads_it(make_trial: MakeTrial) -> None:
    """Whoever names a service has said more than whoever takes what there is."""
    trial = make_trial((3, 4))
    named = trial.services[0].sid
    add_block(trial, "chosen", services=[named])
    trial.sync()
    assert readers(trial) == {named: {"chosen"}, trial.services[1].sid: {"main"}}
