"""`check`: everything that a run needs, looked at before it is needed."""

from dataclasses import asdict

import click

from etl.cli import render
from etl.cli.options import Command, Common, json_option
from etl.cli.output import say, say_json
from etl.errors import ConfigurationError
from etl.sync.preflight import Finding, examine, exit_code


@click.command("check", cls=Command, short_help="Preflight; lists every finding.")
@json_option()
@click.pass_obj
def check(common: Common, as_json: bool) -> int:
    """Look at configuration, credentials, each service, warehouse, revision and privileges; list every finding."""
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
        rows = [
            ("ok" if finding.ok else "FAULT", finding.subject, finding.name, finding.message)
            for finding in findings
        ]
        say(render.table(("", "what", "which", "finding"), rows))
    return code


commands: dict[str, click.Command] = {"check": check}
