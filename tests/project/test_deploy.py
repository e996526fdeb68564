"""The examples of a set-up work as they stand, each in an environment like its own."""

import grp
import os
import pwd
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from etl.config import Settings, load
from etl.warehouse.engines import read_url
from tests.manifests import KUBERNETES, KUSTOMIZATIONS, pods, render
from tests.programs import find_program

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECRETS = dict(
    line.split("=", 1)
    for line in (DEPLOY / "secrets.env").read_text(encoding="utf-8").splitlines()
    if line[0] != "#"
)


def block(language: str, beginning: str) -> str:
    """The README's block of code that begins so."""
    (found,) = (
        text
        for text in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)
        if text.startswith(beginning)
    )
    return str(found)


def load_example(environment: Mapping[str, str]) -> Settings:
    return load(DEPLOY / "config.yaml", read_url, environment)


def test_the_readme_s_configuration_is_the_one_of_all_examples() -> None:
    """Who puts the README's configuration where the README's cron line looks for it must get a program that runs."""
    assert yaml.safe_load(block("yaml", "accounts:")) == yaml.safe_load(
        (DEPLOY / "config.yaml").read_text(encoding="utf-8")
    )
    assert (
        load_example(SECRETS).warehouse.url.get_secret_value()
        == "postgresql://etl:secret@db.internal/analytics"
    )


CRON = {
    "readme": block("cron", ""),
    "deploy": (DEPLOY / "cron/bindings-etl").read_text(encoding="utf-8"),
}


def run_cron(text: str, folder: Path, program: str) -> list[subprocess.CompletedProcess[str]]:
    """Run each line of a crontab as cron would, with `program` (a shell script) in the program's place."""
    for name in ("bin", "etc", "log"):
        (folder / name).mkdir()
    for name in ("config.yaml", "secrets.env"):
        (folder / "etc" / name).write_bytes((DEPLOY / name).read_bytes())
    script = folder / "bin" / "bindings-etl"
    script.write_text(f"#!/bin/sh\n{program}\n")
    script.chmod(0o755)
    for place, name in (
        ("/etc/bindings-etl", "etc"),
        ("/var/log/bindings-etl", "log"),
        ("/usr/local/bin", "bin"),
    ):
        text = text.replace(place, str(folder / name))
    environment = {
        "HOME": "/",
        "SHELL": "/bin/sh",
        **dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)),
    }
    lines = re.findall(r"^[*\d]\S*(?: +\S+){4} +etl +(.+)$", text, re.MULTILINE)
    assert lines
    return [
        subprocess.run(
            ["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, check=False
        )
        for line in lines
    ]


@pytest.mark.parametrize("text", CRON.values(), ids=CRON)
def test_every_line_of_cron_finds_program_secrets_and_log(text: str, tmp_path: Path) -> None:
    """cron knows neither the user's PATH nor his variables; a line that needs them fails every five minutes into a mailbox."""
    # In the program's place: the program itself, which says what it was given.
    program = f'export PYTHONPATH={ROOT}\nexec {sys.executable} -m etl config show "$1" "$2"'
    ended = run_cron(text, tmp_path, program)
    assert [(one.returncode, one.stdout, one.stderr) for one in ended] == [(0, "", "")] * len(ended)
    logs = [log.read_text(encoding="utf-8") for log in (tmp_path / "log").iterdir()]
    assert len(logs) == len(ended)
    assert all("etl:***@db.internal" in log for log in logs)


@pytest.mark.parametrize("text", CRON.values(), ids=CRON)
def test_cron_mails_what_failed(text: str, tmp_path: Path) -> None:
    """cron mails what a line prints and forgets its exit code; a failure that only stands in a log is seen by nobody."""
    assert "MAILTO=" in text
    for one in run_cron(text, tmp_path, "echo why it failed >&2; exit 4"):
        assert (one.stdout, one.stderr) == ("why it failed\n", "")


def test_cron_mails_nothing_of_a_run_that_found_another_at_work(tmp_path: Path) -> None:
    """Where runs now and then take longer than five minutes, mails about it would teach to ignore mails."""
    for name, text in CRON.items():
        (tmp_path / name).mkdir()
        first = run_cron(text, tmp_path / name, "echo another run is at work >&2; exit 6")[0]
        assert (first.stdout, first.stderr) == ("", "")


def test_logs_of_cron_are_rotated(tmp_path: Path) -> None:
    """A log that grows for years fills the disk, and then nothing runs any more."""
    log = tmp_path / "log" / "sync.log"
    log.parent.mkdir(mode=0o755)
    log.write_text("a line\n")
    owner = f"{pwd.getpwuid(os.getuid()).pw_name} {grp.getgrgid(os.getgid()).gr_name}"
    rules = (DEPLOY / "cron/logrotate").read_text(encoding="utf-8")
    rules = rules.replace("/var/log/bindings-etl", str(log.parent)).replace("etl etl", owner)
    (tmp_path / "rules").write_text(rules)
    (tmp_path / "rules").chmod(0o644)
    command = [
        find_program("logrotate"),
        "--force",
        "--state",
        f"{tmp_path}/state",
        f"{tmp_path}/rules",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert (log.parent / "sync.log.1").read_text() == "a line\n"
    assert log.read_text() == ""


SYSTEMD = DEPLOY / "systemd"
SERVICES = sorted(SYSTEMD.glob("*.service"))
TIMERS = sorted(SYSTEMD.glob("*.timer"))


def unit_settings(path: Path) -> list[tuple[str, str]]:
    """The settings of a unit's file, in their order; a name may come more than once."""
    return re.findall(r"^(\w+)=(.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_reads_the_same_secrets_and_may_write_a_file(path: Path) -> None:
    """With the whole system read-only, a warehouse in a file needs a folder of its own."""
    unit = dict(unit_settings(path))
    assert unit["EnvironmentFile"] == "/etc/bindings-etl/secrets.env"
    assert unit["WorkingDirectory"] == f"/var/lib/{unit['StateDirectory']}"
    # systemd takes quotes off and a shell fills in `$`: what both read alike is plain.
    assert all(re.fullmatch(r"[A-Za-z0-9]+", value) for value in SECRETS.values())


def test_every_unit_is_shut_in_alike() -> None:
    """A hole that was closed in one unit and stays open in the other is open."""
    own = {"Description", "ExecStart", "SuccessExitStatus"}
    shared = [[one for one in unit_settings(path) if one[0] not in own] for path in SERVICES]
    assert shared[0] == shared[1]


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.name)
def test_a_unit_may_do_little_else_than_its_work(path: Path) -> None:
    """Whoever finds a hole in a library must not get the machine with it."""
    command = [
        find_program("systemd-analyze"),
        "security",
        "--offline=true",
        "--threshold=30",
        str(path),
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout[-200:]


@pytest.mark.parametrize("path", [*SERVICES, *TIMERS], ids=lambda path: path.name)
def test_systemd_understands_each_unit(path: Path, tmp_path: Path) -> None:
    """systemd ignores a setting that it does not understand, and a timer without its service starts nothing."""
    for unit in (*SERVICES, *TIMERS):
        text = unit.read_text(encoding="utf-8")
        # The one thing that is not here: the program where the unit looks for it.
        text = text.replace("/usr/local/bin/bindings-etl", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    command = [
        find_program("systemd-analyze"),
        "verify",
        "--recursive-errors=yes",
        f"{tmp_path}/{path.name}",
    ]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    assert not path.name.endswith(".timer") or path.with_suffix(".service") in SERVICES


EACH_KUSTOMIZATION = pytest.mark.parametrize("name", KUSTOMIZATIONS)


@EACH_KUSTOMIZATION
def test_manifests_are_what_kubernetes_takes(name: str) -> None:
    """A field that is misspelt, or of a version not out yet, is refused or ignored by the cluster, and only there."""
    for document in render(KUBERNETES / name):
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def config_map() -> dict[str, str]:
    (found,) = (one for one in render(KUBERNETES / "base") if one["kind"] == "ConfigMap")
    assert found["metadata"]["name"] == "bindings-etl"
    return dict(found["data"])


@EACH_KUSTOMIZATION
def test_a_pod_finds_configuration_and_secrets(name: str) -> None:
    """A mount that is missing ends each pod with exit code 2."""
    named = re.findall(r"\$\{file:(.+?)/(\w+)\}", config_map()["config.yaml"])
    assert {key for _, key in named} == SECRETS.keys()
    for pod in pods(name):
        mounts = {one["name"]: one["mountPath"] for one in pod.container["volumeMounts"]}
        volumes = {one["name"]: one for one in pod.spec["volumes"]}
        given = pod.container["args"]
        assert given[given.index("--config") + 1] == f"{mounts['config']}/config.yaml"
        assert volumes["config"]["configMap"]["name"] == "bindings-etl"
        assert volumes["secrets"]["secret"]["secretName"] == "bindings-etl"
        assert {folder for folder, _ in named} == {mounts["secrets"]}


@EACH_KUSTOMIZATION
def test_a_pod_may_do_little(name: str) -> None:
    """A cluster that holds to the standard `restricted` starts no other pod."""
    for pod in pods(name):
        assert pod.spec["securityContext"]["runAsNonRoot"] is True
        assert pod.spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        context = pod.container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["allowPrivilegeEscalation"] is False
        assert context["readOnlyRootFilesystem"] is True
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.container["resources"]["limits"]["memory"]


@EACH_KUSTOMIZATION
def test_a_pod_has_time_to_stop_cleanly(name: str) -> None:
    """Killed by Kubernetes, a run leaves its leases locked for two minutes."""
    deadline = yaml.safe_load(config_map()["config.yaml"])["run"]["deadline_seconds"]
    for pod in pods(name):
        assert pod.spec["terminationGracePeriodSeconds"] >= 10
        assert pod.job.get("activeDeadlineSeconds", 2 * deadline) > deadline


@EACH_KUSTOMIZATION
def test_the_network_policy_is_about_every_pod(name: str) -> None:
    """One whose labels differ would be reached, and reach, as it likes."""
    (policy,) = (one for one in render(KUBERNETES / "base") if one["kind"] == "NetworkPolicy")
    for pod in pods(name):
        assert policy["spec"]["podSelector"]["matchLabels"].items() <= pod.labels.items()


@pytest.mark.parametrize("name", ["migrate", "backfill", "sharded"])
def test_a_killed_pod_is_tried_for_longer_than_its_lease(name: str) -> None:
    """Each try ends with 6 until the killed process's lease is over; who gives up before that leaves services unloaded."""
    job = next(pods(name)).job
    tries = job.get("backoffLimitPerIndex") or job["backoffLimit"]
    lease = load_example(SECRETS).run.lease_seconds
    assert sum(10 * 2**number for number in range(tries)) > 2 * lease


def test_the_shards_of_a_job_are_all_there_are() -> None:
    """A part that no pod reads is never loaded."""
    pod = next(pods("sharded"))
    assert pod.job["parallelism"] == pod.job["completions"]
    assert f"--shard=$(JOB_COMPLETION_INDEX)/{pod.job['completions']}" in pod.container["args"]


def test_metrics_reach_a_collector_by_the_component(tmp_path: Path) -> None:
    """An overlay that names the component must send what it promises, through the network policy."""
    overlay = KUBERNETES / f"overlay-{tmp_path.name}"  # kustomize takes no absolute path
    overlay.mkdir()
    try:
        text = "resources: [../base]\ncomponents: [../otlp]\n"
        (overlay / "kustomization.yaml").write_text(text)
        documents = render(overlay)
    finally:
        shutil.rmtree(overlay)
    by_name = {
        (one["kind"], one["metadata"]["name"]): one["spec"] for one in documents if "spec" in one
    }
    template = by_name["CronJob", "bindings-etl"]["jobTemplate"]["spec"]["template"]
    (variable,) = template["spec"]["containers"][0]["env"]
    assert variable["name"] == "OTEL_EXPORTER_OTLP_ENDPOINT"
    port = int(variable["value"].rpartition(":")[2])
    egress = by_name["NetworkPolicy", "bindings-etl"]["egress"]
    assert port in {one["port"] for rule in egress for one in rule["ports"]}


def test_the_container_file_passes_its_linter() -> None:
    """A slip in it shows in somebody's build only."""
    command = [find_program("hadolint"), str(DEPLOY / "Containerfile")]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout) == (0, "")


def test_image_and_manifests_are_of_this_version() -> None:
    """A tag of an older version runs older code under a newer description."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert f'image.version="{version}"' in (DEPLOY / "Containerfile").read_text("utf-8")
    for name in KUSTOMIZATIONS:
        for pod in pods(name):
            assert pod.container["image"].endswith(f"bindings-etl:{version}")


LOCKED = dict(
    re.findall(
        r"^([a-z0-9-]+)==(\S+)", (ROOT / "requirements.lock").read_text("utf-8"), re.MULTILINE
    )
)


def test_the_lock_file_holds_what_the_image_needs() -> None:
    """A requirement that is not in the lock file, or not of its version, ends the build of the image."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = project["optional-dependencies"]
    needed = [*project["dependencies"], *extras["postgres"], *extras["mysql"], *extras["otel"]]
    for one in map(Requirement, needed):
        assert one.specifier.contains(LOCKED[canonicalize_name(one.name)]), one


def test_the_lock_file_has_hashes_and_names_no_index() -> None:
    """Without a hash an index could hand out something else; with its address, nobody behind another one can install."""
    lock = (ROOT / "requirements.lock").read_text("utf-8")
    assert "://" not in lock
    assert "--index" not in lock
    for block_of_one in re.split(r"^(?=[a-z0-9-]+==)", lock, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in block_of_one, block_of_one
