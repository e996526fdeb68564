"""Long scenarios: thousands of pages amid random faults, and the simulator held to the API's own description."""

import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from random import Random

import pytest

from etl.simulator import Simulator, World
from tests.acceptance.run_records import assert_complete
from tests.acceptance.scenario import Scenario

DESCRIPTION = Path(__file__).parents[2].parent / "shared" / "api" / "twilio_conversations_v1.json"
PATHS = (
    "/v1/Services",
    "/v1/Services/{Sid}",
    "/v1/Services/{ChatServiceSid}/Bindings",
    "/v1/Services/{ChatServiceSid}/Bindings/{Sid}",
    "/v1/Configuration",
)
SETTINGS = """
[parameters]
"path.ChatServiceSid" = "{service}"
"path.Sid" = "{binding}"

[[operations]]
include-path = "/v1/Services/{{Sid}}"
parameters = {{ "path.Sid" = "{service}" }}
"""


@pytest.mark.slow
def test_five_thousand_pages_amid_faults(make_scenario: Callable[..., Scenario]) -> None:
    """What goes wrong once in a thousand pages is met every night by whoever has a million rows."""
    scenario = make_scenario(bindings=(20_000, 5_000), max_page_size=5)
    rng = Random(7)
    faults = [
        scenario.simulator.faults.add(name, when=lambda _asked: rng.random() < 0.0125)
        for name in ("throttle", "error-500", "reset", "cut-body")
    ]
    scenario.settings["retry"]["attempts"] = 10
    result = scenario.sync()
    assert_complete(scenario, result)
    assert result.totals["pages"] == 5_000
    assert result.totals["retries"] >= 150
    assert all(fault.struck > 20 for fault in faults)


@pytest.mark.slow
@pytest.mark.skipif(
    not DESCRIPTION.exists(),
    reason=f"the API's description is not at {DESCRIPTION.name} beside the project",
)
@pytest.mark.skipif(find_spec("schemathesis") is None, reason="schemathesis is not installed")
def test_the_simulator_keeps_to_the_description(tmp_path: Path) -> None:
    """A simulator that answers otherwise than the API would prove nothing about a client of the API."""
    world = World(1)
    service = world.add_service(230)
    simulator = Simulator(world)
    (tmp_path / "schemathesis.toml").write_text(
        SETTINGS.format(service=service.sid, binding=service.sids()[0])
    )
    chosen = [f"--include-path={path}" for path in PATHS]
    with simulator.serve() as url:
        checked = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", str(DESCRIPTION), f"--url={url}", *chosen,
                "--exclude-method=POST", "--exclude-method=DELETE",
                f"--auth={world.api_key}:{world.api_secret}", "--max-examples=40", "--mode=positive", "--seed=1", "--no-color",
                "--checks=not_a_server_error,content_type_conformance,response_schema_conformance",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert len(simulator.requests) > 100
