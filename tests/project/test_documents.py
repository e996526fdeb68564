"""The project's own papers are true."""

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

from docs import dictionary, screens, sources
from etl import errors
from etl.cli.app import app
from etl.config import Settings
from etl.domain.status import ScanStatus
from etl.logs import LEVELS
from etl.simulator import describe_faults
from etl.warehouse.tables import metadata

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def commands(
    group: click.Group = app, path: tuple[str, ...] = ()
) -> dict[tuple[str, ...], click.Command]:
    """Every command by its path, groups included."""
    context = click.Context(group)
    found: dict[tuple[str, ...], click.Command] = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        found[*path, name] = command
        if isinstance(command, click.Group):
            found |= commands(command, (*path, name))
    return found


def options_of(command: click.Command) -> set[str]:
    return {
        option
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--")
    }


def shown_command_lines() -> list[tuple[str, str]]:
    """Every `bindings-etl …` in a code block or between backticks, with the page that shows it."""
    lines = []
    for page in PAGES:
        text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
        for block in re.findall(r"```(?:sh|cron)\n(.*?)```", text, re.DOTALL):
            lines += [(page.name, line) for line in block.splitlines()]
        lines += [(page.name, code) for code in re.findall(r"`(bindings-etl [^`]+)`", text)]
    return [
        (page, line[line.index("bindings-etl ") :])
        for page, line in lines
        if re.search(r"(^|\s)bindings-etl ", line)
    ]


@pytest.mark.parametrize(("page", "line"), shown_command_lines())
def test_every_command_line_shown_is_understood(page: str, line: str) -> None:
    """A command line in the papers that the program does not take would fail in front of a newcomer."""
    words = shlex.split(re.split(r"\s#|>>|\|", line)[0])[1:]
    command: click.Command = app
    known = options_of(app)
    for word in words:
        if isinstance(command, click.Group) and (word,) in commands(command):
            command = commands(command)[word,]
            known |= options_of(command)
        elif word.startswith("--"):
            assert word.split("=")[0] in known, f"{page}: {line}"


def test_every_command_and_option_stands_in_the_papers() -> None:
    """What the papers do not name, nobody finds."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for path, command in commands().items():
        assert f"`{path[0]}`" in readme, path
        assert " ".join(path) in page, path
        for option in options_of(command) - {"--payload"}:
            assert option in page, (path, option)


def test_the_readme_is_read_in_one_go() -> None:
    """A newcomer who has to pass details before the first query gives up; they have their own pages."""
    assert (ROOT / "README.md").read_text(encoding="utf-8").count("\n") < 150


def test_every_fault_of_the_simulator_stands_in_its_page() -> None:
    """Who wants to try a fault looks for its name there, and must not find one that is gone."""
    page = (ROOT / "docs" / "simulator.md").read_text(encoding="utf-8")
    listed = page.partition("<!-- faults: begin -->")[2].partition("<!-- faults: end -->")[0]
    assert sorted(re.findall(r"`([a-z0-9-]+)`", listed)) == sorted(describe_faults())


def test_every_command_helps() -> None:
    """A command without help is a riddle at three in the morning."""
    for path, command in commands().items():
        assert command.help, path


def test_the_changelog_knows_the_version() -> None:
    """A release without its section tells nobody what it changes."""
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "version"
    ]
    assert titles[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", one) for one in titles[1:])
    assert titles[1].split(" ")[0] == version


def test_links_between_papers_lead_somewhere() -> None:
    """A dead link in the papers sends its reader away."""
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def sections(page: Path) -> set[str]:
    """The numbers of a paper's sections, such as `2` and `2.3`."""
    return set(re.findall(r"^#+ (\d+(?:\.\d+)*) ", page.read_text(encoding="utf-8"), re.MULTILINE))


def test_references_to_sections_lead_somewhere() -> None:
    """A fact whose source is not in the repository cannot be checked."""
    known = {f"docs/{name}.md": sections(ROOT / f"docs/{name}.md") for name in ("api", "promises")}
    lost = [
        f"{path.relative_to(ROOT)}: {paper} §{number}"
        for room in ("etl", "tests", "docs", "benchmarks", "migrations")
        for path in sorted((ROOT / room).rglob("*.py"))
        if ".work" not in path.parts  # other people's environments, of a benchmark
        for paper, numbers in re.findall(
            r"(docs/\S+\.md|\bfacts|\bcontract) ((?:§[\d.]*\d(?:, | and | to )?)+)",
            path.read_text(encoding="utf-8"),
        )
        for number in re.findall(r"§([\d.]*\d)", numbers)
        if number not in known.get(paper, set())
    ]
    assert not lost


def test_the_data_dictionary_is_current() -> None:
    """The dictionary is what analysts trust; it has to say what the tables say."""
    page = dictionary.PAGE.read_text(encoding="utf-8")
    assert page == dictionary.put_into(page), "run `make docs`"


def test_the_sources_of_dbt_are_current() -> None:
    """A column that dbt is told of and that is not there, or the other way round, breaks what is built on it."""
    assert sources.PAGE.read_text(encoding="utf-8") == sources.render(), "run `make docs`"


@pytest.mark.slow
def test_the_screens_are_current() -> None:
    """A picture of a screen that looks otherwise today misleads; and what is shown must not change unseen."""
    page = screens.PAGE.read_text(encoding="utf-8")
    assert screens.masked(page) == screens.masked(screens.render_page()), "run `make docs`"


def test_version_is_told_in_a_blink() -> None:
    """`--version` has to work without a configuration and without loading what it does not need."""
    script = "import sys; from etl.cli.app import run; code = run(['--version']); print(code, 'sqlalchemy' in sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout
    assert re.fullmatch(r"bindings-etl \d+\.\d+\.\d+\n0 False\n", told)


def definitions() -> tuple[set[str], set[tuple[str, str]]]:
    """The names of all functions and classes of the program, and its methods with their classes."""
    names: set[str] = set()
    methods: set[tuple[str, str]] = set()
    for module in (ROOT / "etl").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                names.add(node.name)
            if isinstance(node, ast.ClassDef):
                methods |= {
                    (node.name, one.name) for one in node.body if isinstance(one, ast.FunctionDef)
                }
    return names, methods


def test_the_architecture_names_what_exists() -> None:
    """A walk through the code that meets a name nobody finds is worse than none."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    names, methods = definitions()
    settings = json.dumps(Settings.model_json_schema())
    for name in set(re.findall(r"`([^`\s]+)`", page)):
        owner, _, member = name.partition(".")
        if "/" in name:
            assert (ROOT / name).exists(), name
        elif owner in names and member:
            assert (owner, member) in methods, name
        elif re.fullmatch(r"[a-z]+(_[a-z]+)*|([A-Z][a-z]+)+", name) and name not in NOT_OURS:
            assert name in names | metadata.tables.keys() or f'"{name}"' in settings, name


# Words of the architecture that other people's code defines, and folders.
NOT_OURS = {"Connection", "commands", "json", "benchmarks", "services"}


def test_each_promise_names_the_tests_that_hold_it() -> None:
    """A promise that no test holds is a wish."""
    tests = "\n".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py")
    )
    page = (ROOT / "docs" / "promises.md").read_text(encoding="utf-8")
    for promise in page.split("\n## ")[1:]:
        named = re.findall(r"`(test_\w+)`", promise)
        assert named, promise.splitlines()[0]
        for name in named:
            assert f"def {name}(" in tests, name


OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")


def rows_of_table(name: str) -> dict[str, list[str]]:
    """The rows of a marked table in docs/operations.md, by the name that stands first."""
    table = OPERATIONS.partition(f"<!-- {name}: begin -->")[2].partition(f"<!-- {name}: end -->")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    return {row[0].strip("`"): row[1:] for row in rows if row[0].startswith("`")}


def test_every_exit_code_is_answered() -> None:
    """Who is woken by an exit code must find it on the page, with what to do."""
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    listed = page.partition("## Exit codes")[2].partition("\n## ")[0]
    codes = re.findall(r"\d+", " ".join(re.findall(r"^\| (\d[\d, ]*) \|", listed, re.MULTILINE)))
    answers = dict(
        re.findall(r"^### Exit code (\d+)\n\n(.*?)(?=\n#)", OPERATIONS, re.MULTILINE | re.DOTALL)
    )
    assert list(answers) == codes
    for code, answer in answers.items():
        assert code == "0" or ("**Do:**" in answer and "**Data" in answer), code


def test_every_type_of_error_is_answered() -> None:
    """A type that `--json` shows and nobody explains is looked up in the code, at night."""
    described = rows_of_table("types")
    types = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.EtlError)
    }
    assert sorted(described) == sorted(types)
    for name, kind in types.items():
        code = described[name][0]
        stopped = kind in {errors.Interrupted, errors.TypeUnknown}  # no fault, or a signal's code
        assert stopped or str(kind.exit_code) in re.findall(r"\d+", code), name


def logged_events() -> dict[str, str]:
    """Every event that the program logs, with its level."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "etl").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(func=ast.Attribute(attr=level), args=[first, *_]) if level in LEVELS:
                    found |= dict.fromkeys(names_of_event(first), level)
    return found


def names_of_event(node: ast.expr) -> list[str]:
    """What the first argument of a logging call can be."""
    match node:
        case ast.Constant(value=str(name)):
            return [name]
        case ast.IfExp(body=one, orelse=other):
            return names_of_event(one) + names_of_event(other)
        case ast.JoinedStr(values=[ast.Constant(value="scan."), _]):
            return [f"scan.{one}" for one in ScanStatus if one != ScanStatus.RUNNING]
    raise AssertionError(f"line {node.lineno}: an event whose name cannot be read from the code")


def test_every_event_of_the_log_is_listed() -> None:
    """Alerts and searches are built on the names of events; a list that lies makes them blind."""
    listed = {name: row[0] for name, row in rows_of_table("events").items()}
    assert listed == logged_events()
