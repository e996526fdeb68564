"""`--on dask://…`: a real scheduler and two workers as processes, which scan what threads scan elsewhere."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scenario import Scenario, wait_until

pytest.importorskip("distributed")

MakeScenario = Callable[..., Scenario]


class Cluster:
    """A scheduler and its workers, each a process with a file that it logs to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = dict(os.environ)
        self.workers: list[subprocess.Popen[bytes]] = []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"dask://127.0.0.1:{self.port}"
        self._processes = [
            self._start("scheduler", "--host", "127.0.0.1", "--port", str(self.port), "--no-show")
        ]

    def add_worker(self, environment: Mapping[str, str] | None = None) -> "subprocess.Popen[bytes]":
        """Start a worker of two threads."""
        worker = self._start(
            "worker", f"tcp://127.0.0.1:{self.port}", "--nthreads", "2", "--no-nanny",
            "--no-dashboard", "--local-directory", str(self.folder),
            environment=environment,
        )  # fmt: skip
        self.workers.append(worker)
        self._processes.append(worker)
        log = self._log_of(len(self._processes) - 1)
        wait_until(lambda: "Registered to" in log.read_text(errors="replace"))
        return worker

    @property
    def logs(self) -> str:
        """Return all that scheduler and workers have written."""
        return "".join(
            self._log_of(number).read_text(errors="replace")
            for number in range(len(self._processes))
        )

    def stop(self) -> None:
        """Kill all of it."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()

    def _start(
        self, *arguments: str, environment: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        number = len(getattr(self, "_processes", []))
        with self._log_of(number).open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment | dict(environment or {}),
            )

    def _log_of(self, number: int) -> Path:
        return self.folder / f"dask-{number}.log"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A scheduler without workers."""
    folder = tmp_path / "dask"
    folder.mkdir()
    one = Cluster(folder)
    with contextlib.ExitStack() as stack:
        stack.callback(one.stop)
        yield one


@pytest.fixture
def scenario(make_scenario: MakeScenario, postgres18_url: str) -> Scenario:
    """Six services on a warehouse that many processes can share."""
    scenario = make_scenario(
        (60, 40, 30, 20, 10, 5), url=postgres18_url, max_page_size=5, latency_ms=20
    )
    scenario.account["concurrency"] = 3
    return scenario


@pytest.mark.slow
def test_a_cluster_reads_what_threads_read(scenario: Scenario, cluster: Cluster) -> None:
    """Whoever moves a run to a cluster must find the same rows, and ask the API for no more at once."""
    for _ in range(2):
        cluster.add_worker()
    api: Any = scenario.interceptor._app
    result = scenario.sync("--on", cluster.address)
    scenario.assert_equal_to_world()
    assert result.totals["inserted"] == 165
    assert {entry["status"] for entry in result.json["services"]} == {"published"}
    assert 2 <= api.most_in_flight <= 3
    scenario.services[0].delete(3)
    again = scenario.sync("--on", cluster.address)
    assert (again.totals["deleted"], again.totals["unchanged"]) == (3, 162)
    planned = scenario.sync("--on", cluster.address, "--dry-run")
    assert {entry["status"] for entry in planned.json["services"]} == {"planned"}
    assert scenario.query("SELECT * FROM sync_leases") == []
    for secret in (scenario.account["api_secret"], *identities(scenario)):
        assert secret not in cluster.logs


@pytest.mark.slow
def test_a_worker_that_dies_costs_one_more_try(scenario: Scenario, cluster: Cluster) -> None:
    """A worker is evicted every day somewhere; its services must be read all the same, and whole."""
    doomed = cluster.add_worker()
    scenario.settings["run"] = {"lease_seconds": 15}
    process = scenario.start("sync", "--json", "--on", cluster.address)
    wait_until(lambda: scenario.query("SELECT * FROM sync_leases"))
    cluster.add_worker()
    doomed.kill()
    result = scenario.wait_for(process)
    assert {entry["status"] for entry in result.json["services"]} == {"published"}
    scenario.assert_equal_to_world()
    assert scenario.query("SELECT * FROM sync_leases") == []
    assert scenario.query("SELECT * FROM sync_scans WHERE status = 'running'") == []


@pytest.mark.slow
def test_a_signal_reaches_the_workers(scenario: Scenario, cluster: Cluster) -> None:
    """Workers that went on would publish for a run that its scheduler took for stopped."""
    cluster.add_worker()
    process = scenario.start("sync", "--json", "--on", cluster.address)
    wait_until(lambda: scenario.query("SELECT * FROM sync_leases"))
    process.send_signal(signal.SIGTERM)
    result = scenario.wait_for(process, expect=143)
    assert result.json["status"] == "interrupted"
    wait_until(lambda: not scenario.query("SELECT * FROM sync_leases"))
    assert scenario.query("SELECT * FROM sync_scans WHERE status = 'running'") == []


@pytest.mark.slow
def test_a_worker_fills_placeholders_itself(
    scenario: Scenario, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A secret that the worker has must not travel; one that it lacks is named before anything is done."""
    monkeypatch.setenv("ONLY_HERE", "not-what-opens-the-account")
    secret = scenario.account["api_secret"]
    scenario.account["api_secret"] = "${ONLY_HERE}"
    scenario.services[0].delete(1)
    cluster.add_worker({"ONLY_HERE": secret})
    result = scenario.run(
        "sync", "--service", scenario.services[0].sid, "--on", cluster.address, expect=4
    )
    assert "refused" in result.err or "401" in result.err
    scenario.account["services"] = [service.sid for service in scenario.services]
    scenario.sync("--on", cluster.address)
    scenario.assert_equal_to_world()
    cluster.add_worker()
    lacking = scenario.run("sync", "--on", cluster.address, expect=2)
    assert "ONLY_HERE" in lacking.err
    assert "worker tcp://127.0.0.1" in lacking.err


@pytest.mark.slow
def test_a_worker_of_another_version_is_refused(scenario: Scenario, cluster: Cluster) -> None:
    """Two versions may stage and compare in different ways; nobody would see it in the result."""
    other = cluster.folder / "other" / "bindings_etl-9.9.9.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: bindings-etl\nVersion: 9.9.9\n")
    cluster.add_worker({"PYTHONPATH": str(other.parent)})
    result = scenario.run("sync", "--on", cluster.address, expect=2)
    assert "9.9.9" in result.err
    assert scenario.query("SELECT * FROM sync_runs") == []


def test_a_scheduler_that_is_not_there_is_told(scenario: Scenario) -> None:
    """A wrong port must not look like an API without services."""
    result = scenario.sync("--on", "dask://127.0.0.1:1", expect=4)
    assert "no Dask scheduler" in result.err
    assert scenario.query("SELECT * FROM sync_runs") == []


@pytest.mark.slow
def test_a_cluster_without_workers_is_told(scenario: Scenario, cluster: Cluster) -> None:
    """The run would wait for ever, and each later one find it running."""
    wait_until(lambda: "Scheduler at" in cluster.logs)
    assert "no worker" in scenario.sync("--on", cluster.address, expect=4).err


def test_a_file_cannot_be_shared_by_workers(make_scenario: MakeScenario) -> None:
    """Each worker would load a file of its own, on a machine that nobody looks at."""
    result = make_scenario((3,)).sync("--on", "dask://127.0.0.1:1", expect=2)
    assert "PostgreSQL or MariaDB" in result.err


@pytest.mark.parametrize("place", ["dask://host", "tcp://host:1", "dask://a:b@host:1", "here"])
def test_a_place_that_is_none_is_a_usage_error(make_scenario: MakeScenario, place: str) -> None:
    """A slip of the pen must not run the whole load on the wrong machine."""
    assert "local nor dask://HOST:PORT" in make_scenario((3,)).sync("--on", place, expect=2).err


def identities(scenario: Scenario) -> set[str]:
    """What names people."""
    return {
        binding["identity"]
        for service in scenario.services
        for binding in service.bindings.values()
        if len(binding["identity"] or "") > 6
    }
