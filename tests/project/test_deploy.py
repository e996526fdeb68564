"""The examples of a set-up work as they stand, each in an environment like its own."""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from etl.config import Settings, load
from etl.warehouse.engines import read_url

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECRETS = dict(
    line.split("=", 1)
    for line in (DEPLOY / "secrets.env").read_text(encoding="utf-8").splitlines()
    if line[0] != "#"
)
MANIFESTS = {
    path.name: path.read_text(encoding="utf-8")
    for path in sorted(DEPLOY.rglob("kubernetes/*.yaml"))
}


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


@pytest.mark.parametrize(
    "text",
    [block("cron", ""), (DEPLOY / "cron/bindings-etl").read_text(encoding="utf-8")],
    ids=["readme", "deploy"],
)
def test_every_line_of_cron_finds_program_secrets_and_log(text: str, tmp_path: Path) -> None:
    """cron knows neither the user's PATH nor his variables; a line that needs them fails every five minutes into a mailbox."""
    for name in ("bin", "etc", "log"):
        (tmp_path / name).mkdir()
    for name in ("config.yaml", "secrets.env"):
        (tmp_path / "etc" / name).write_bytes((DEPLOY / name).read_bytes())
    # In the program's place: the program itself, which says what it was given.
    program = tmp_path / "bin" / "bindings-etl"
    program.write_text(
        f'#!/bin/sh\nexport PYTHONPATH={ROOT}\nexec {sys.executable} -m etl config show "$1" "$2"\n'
    )
    program.chmod(0o755)
    for place, name in (
        ("/etc/bindings-etl", "etc"),
        ("/var/log/bindings-etl", "log"),
        ("/usr/local/bin", "bin"),
    ):
        text = text.replace(place, str(tmp_path / name))
    environment = {
        "HOME": "/",
        "SHELL": "/bin/sh",
        **dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)),
    }
    lines = re.findall(r"^[*\d]\S*(?: +\S+){4} +etl +(.+)$", text, re.MULTILINE)
    assert lines
    for line in lines:
        ended = subprocess.run(
            ["/bin/sh", "-c", line], env=environment, capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert len(list((tmp_path / "log").iterdir())) == len(lines)
    assert all(
        "etl:***@db.internal" in log.read_text(encoding="utf-8")
        for log in (tmp_path / "log").iterdir()
    )


def test_the_unit_reads_the_same_secrets_and_may_write_a_file() -> None:
    """With the whole system read-only, a warehouse in a file needs a folder of its own."""
    unit = dict(
        re.findall(
            r"^(\w+)=(.*)$",
            (DEPLOY / "systemd/bindings-etl.service").read_text(encoding="utf-8"),
            re.MULTILINE,
        )
    )
    assert unit["EnvironmentFile"] == "/etc/bindings-etl/secrets.env"
    assert unit["WorkingDirectory"] == f"/var/lib/{unit['StateDirectory']}"
    # systemd takes quotes off and a shell fills in `$`: what both read alike is plain.
    assert all(re.fullmatch(r"[A-Za-z0-9]+", value) for value in SECRETS.values())


@pytest.mark.parametrize(
    "text", [block("yaml", "apiVersion"), *MANIFESTS.values()], ids=["readme", *MANIFESTS]
)
def test_the_manifests_bring_secrets_and_configuration(text: str) -> None:
    """A variable or a mount that is missing ends each pod with exit code 2."""
    document: dict[str, Any] = yaml.safe_load(text)
    pod = document["spec"].get("jobTemplate", document)["spec"]["template"]["spec"]
    container = pod["containers"][0]
    assert container["envFrom"] == [{"secretRef": {"name": "bindings-etl"}}]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    configs = {volume["name"]: volume.get("configMap") for volume in pod["volumes"]}
    assert mounts["config"] == str(
        Path(container["args"][container["args"].index("--config") + 1]).parent
    )
    assert configs["config"] == {"name": "bindings-etl"}


def test_a_killed_shard_is_tried_for_longer_than_its_lease() -> None:
    """Each try ends with 6 until the killed process's lease is over; a shard that gave up would leave its services unloaded."""
    tries = yaml.safe_load(MANIFESTS["first-load.yaml"])["spec"]["backoffLimitPerIndex"]
    assert (
        sum(10 * 2**number for number in range(tries)) > 4 * load_example(SECRETS).run.lease_seconds
    )
