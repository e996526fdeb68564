"""`check`: everything that a run needs, looked at before it is needed."""

from collections.abc import Sequence

import click
from msgspec.structs import asdict

from etl.cli import render
from etl.cli.options import Command, Common, json_option
from etl.cli.output import say_json, show
from etl.cli.screen import Part, Styled, Table
from etl.errors import ConfigurationError
from etl.sync.outcome import count
from etl.sync.preflight import Finding, examine, exit_code


@click.command("check", cls=Command, short_help="Preflight; lists every finding.")
@json_option()
@click.pass_obj
def check(common: Common, as_json: bool) -> int:
    """List what is wrong with configuration, credentials, services, warehouse or privileges."""
    try:
        findings = [
            Finding("configuration", str(common.config_path), ok=True, message="is valid"),
            *examine(common.settings()),
        ]
    except ConfigurationError as error:
        findings = [
            Finding(
                "configuration",
                str(common.config_path),
                ok=False,
                message=str(error),
                exit_code=error.exit_code,
            )
        ]
    code = exit_code(findings)
    if as_json:
        found = [asdict(finding) for finding in findings]
        document = {"ok": code == 0, "exit_code": code, "findings": found}
        say_json(render.to_json(document), code)
    else:
        show(describe(findings), code)
    return code


def describe(findings: Sequence[Finding]) -> list[Part]:
    """Return the screen: a line a finding, and what is to be done."""
    rows = [
        (
            finding.subject,
            Styled("ok", "green") if finding.ok else Styled("FAULT", "bold red"),
            finding.name,
            finding.message,
        )
        for finding in findings
    ]
    faults = sum(not finding.ok for finding in findings)
    summary = (
        Styled(f"{count(faults, 'fault')}: mend what is listed above", "bold red")
        if faults
        else Styled("all is well: `bindings-etl sync` can run", "green")
    )
    return [Table(("subject", "result", "name", "finding"), rows, prose=("finding",)), "", summary]


commands: dict[str, click.Command] = {"check": check}
