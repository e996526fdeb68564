"""The examples of a set-up run the program as it is."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.acceptance.scenario import Scenario
from tests.manifests import KUBERNETES, KUSTOMIZATIONS, Pod, pods, render
from tests.programs import find_program

MakeScenario = Callable[..., Scenario]

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy/systemd/bindings-etl.service"


def system_calls(group: str) -> set[str]:
    """The system calls of one of systemd's groups, such as `@system-service`, those of groups in it included."""
    command = [find_program("systemd-analyze"), "syscall-filter", group]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.strip() for line in told.splitlines()[1:] if line and "#" not in line]
    inner = [system_calls(name) for name in names if name.startswith("@")]
    return {name for name in names if not name.startswith("@")}.union(*inner)


def allowed_system_calls() -> set[str]:
    """What the unit's `SystemCallFilter` lets through."""
    allowed = set[str]()
    for line in re.findall(
        r"^SystemCallFilter=(.*)$", UNIT.read_text(encoding="utf-8"), re.MULTILINE
    ):
        calls = set[str]().union(*map(system_calls, line.removeprefix("~").split()))
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    return allowed


@pytest.mark.slow
def test_the_unit_allows_what_the_program_asks_of_the_system(
    make_scenario: MakeScenario, warehouse_url: str, tmp_path: Path
) -> None:
    """A system call that the unit forbids would fail under systemd only, where no other test runs."""
    scenario = make_scenario((30, 12), url=warehouse_url)
    scenario.write_config()
    counts = tmp_path / "counts"
    strace = [find_program("strace"), "-f", "-qq", "-U", "name", "-c", "-o", str(counts)]
    program = [sys.executable, "-m", "etl", "sync", "--config", str(scenario.config_path)]
    told = subprocess.run([*strace, *program], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    names = re.findall(r"^[a-z]\w+$", counts.read_text(encoding="utf-8"), re.MULTILINE)
    assert "openat" in names
    # Head and foot of the table; SQLite makes `fchown` as root only, which the unit's user is not;
    # numpy, which Snowflake's driver loads where it is installed, does without `mbind`.
    beside = {"syscall", "total", "fchown", "mbind"}
    assert not set(names) - allowed_system_calls() - beside


def as_pod(pod: Pod, root: Path, **environment: str) -> None:
    """Run the command of a pod's container with the files that its volumes would bring; it has to succeed."""
    given = {one["name"]: environment[one["name"]] for one in pod.container.get("env", ())}
    known = environment | given

    def fill_in(text: str) -> str:
        text = re.sub(r"\$\((\w+)\)", lambda found: known[found[1]], text)
        return text.replace("/etc/bindings-etl", str(root))

    command = [sys.executable, "-m", "etl", *map(fill_in, pod.container["args"])]
    variables = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "TMPDIR": str(root)} | given
    told = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert told.returncode == 0, (pod.name, told.stdout, told.stderr)


def mount(scenario: Scenario, root: Path, warehouse_url: str) -> None:
    """Write the files of the ConfigMap and of the Secret; only names of hosts and of the account are other ones."""
    (found,) = (one for one in render(KUBERNETES / "base") if one["kind"] == "ConfigMap")
    secrets = "/run/secrets/bindings-etl"
    settings = yaml.safe_load(found["data"]["config.yaml"].replace(secrets, str(root)))
    settings["accounts"][0] |= {
        "account_sid": scenario.world.account_sid,
        "base_url": scenario.simulator.base_url,
    }
    place, _, host = warehouse_url.partition("@")
    assert f"${{file:{root}/DB_PASSWORD}}@" in settings["warehouse"]["url"]
    settings["warehouse"]["url"] = f"{place}:${{file:{root}/DB_PASSWORD}}@{host}"
    (root / "config.yaml").write_text(yaml.safe_dump(settings))
    (root / "TWILIO_API_KEY").write_text(scenario.world.api_key + "\n")
    (root / "TWILIO_API_SECRET").write_text(scenario.world.api_secret + "\n")
    (root / "DB_PASSWORD").write_text("any")


@pytest.mark.slow
def test_every_pod_runs_its_command(
    make_scenario: MakeScenario, postgres18_url: str, tmp_path: Path
) -> None:
    """A manifest whose command, option, mount or variable is wrong fails in the cluster only, with the data getting old."""
    scenario = make_scenario((30, 12, 7))
    mount(scenario, tmp_path, postgres18_url)
    by_name = {(name, pod.name): pod for name in KUSTOMIZATIONS for pod in pods(name)}
    as_pod(by_name.pop(("migrate", "bindings-etl-migrate")), tmp_path)
    sharded = by_name.pop(("sharded", "bindings-etl"))
    for index in range(sharded.job["completions"]):
        as_pod(sharded, tmp_path, JOB_COMPLETION_INDEX=str(index), RUN_GROUP="bindings-etl-29384")
    scenario.warehouse_url = postgres18_url
    [loaded] = scenario.query(
        "SELECT count(*) AS n, count(DISTINCT run_id) AS runs FROM twilio.bindings"
    )
    assert loaded["n"] == 49
    for pod in by_name.values():
        as_pod(pod, tmp_path)
