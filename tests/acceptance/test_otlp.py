"""OpenTelemetry: what a collector gets, and what a collector that is down or hangs can do to a run (docs/alerts.md; docs/promises.md §15)."""

import gzip
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from etl.simulator.replies import error, with_headers
from tests.acceptance.fault_proxy import listening, stay_silent
from tests.acceptance.scenario import Scenario
from tests.acceptance.test_metrics_file import NAMES

MakeScenario = Callable[..., Scenario]


class Collector(ThreadingHTTPServer):
    """Takes what is exported, and decodes it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.status = 200
        self.raw = b""
        self.heads: list[dict[str, str]] = []
        self.spans: list[Any] = []
        self.metrics: dict[str, list[Any]] = {}
        self.resources: list[dict[str, Any]] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def take(self, path: str, body: bytes) -> None:
        self.raw += body
        if path == "/v1/traces":
            for found in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(attributes(found.resource))
                self.spans += [span for scope in found.scope_spans for span in scope.spans]
        else:
            assert path == "/v1/metrics"
            for found in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(attributes(found.resource))
                for metric in (one for scope in found.scope_metrics for one in scope.metrics):
                    self.metrics[metric.name] = list(metric.gauge.data_points)

    def named(self, name: str) -> list[Any]:
        return [span for span in self.spans if span.name == name]

    def value(self, name: str, **labels: str) -> float:
        [point] = [one for one in self.metrics[f"bindings_etl_{name}"] if attributes(one) == labels]
        return float(point.as_int or point.as_double)


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        self.server.heads.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.status == 200:
            self.server.take(self.path, body)
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def attributes(holder: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in holder.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.url)
        yield server
        server.shutdown()


def test_spans_hang_together_from_run_to_page(
    make_scenario: MakeScenario, collector: Collector
) -> None:
    """Whoever asks why a run was slow walks down from the run to the page, and asks Twilio by the page's request id."""
    scenario = make_scenario((250, 30), max_page_size=100)
    result = scenario.sync()
    by_id = {span.span_id: span for span in collector.spans}
    [run] = collector.named("run")
    assert run.parent_span_id == b""
    told = attributes(run)
    assert (told["mode"], told["run_id"], told["status"], told["exit_code"]) == (
        "sync",
        result.json["run_id"],
        "succeeded",
        0,
    )
    assert {attributes(scan)["chat_service_sid"] for scan in collector.named("scan")} == set(
        scenario.world.services
    )
    for name, above, number in (("scan", "run", 2), ("page", "scan", 4), ("publish", "scan", 2)):
        spans = collector.named(name)
        assert len(spans) == number, name
        for span in spans:
            parent = by_id[span.parent_span_id]
            assert (parent.name, span.trace_id) == (above, run.trace_id)
            assert parent.start_time_unix_nano <= span.start_time_unix_nano
            assert span.start_time_unix_nano < span.end_time_unix_nano <= parent.end_time_unix_nano
            assert attributes(span)["account"] == "main"
    assert {by_id[span.parent_span_id].name for span in collector.named("batch")} == {"scan"}
    assert sum(attributes(span)["rows"] for span in collector.named("batch")) == 280
    ids = {attributes(page)["twilio.request_id"] for page in collector.named("page")}
    assert len(ids) == 4
    assert all(re.fullmatch(r"RQ[0-9a-f]{32}", one) for one in ids)
    assert collector.resources[0]["service.name"] == "bindings-etl"


def test_the_figures_are_those_of_the_metrics_file(
    make_scenario: MakeScenario, collector: Collector
) -> None:
    """One dashboard serves both ways; a name that differed would leave half of it empty."""
    scenario = make_scenario((30, 12))
    result = scenario.sync()
    assert collector.metrics.keys() == NAMES
    assert collector.value("run_exit_code") == 0
    assert collector.value("run_requests") == result.totals["requests"]
    for service in scenario.services:
        at = {"account": "main", "chat_service_sid": service.sid}
        assert collector.value("service_active", **at) == len(service)
        assert collector.value("service_rows", **at, change="inserted") == len(service)
        assert collector.value("service_up", **at) == 1


def test_a_failure_is_seen_where_it_was(make_scenario: MakeScenario, collector: Collector) -> None:
    """The page that was refused, its scan and the run are marked, each with what went wrong; the other scan is not."""
    scenario = make_scenario((30, 12))
    bad = scenario.services[1].sid
    scenario.interceptor.watch = lambda request: (
        with_headers(error(20006), {"twilio-request-id": "RQ" + "7" * 32})
        if request.is_listing and request.service == bad
        else None
    )
    scenario.sync(expect=3)
    marked = {
        (span.name, attributes(span).get("error.type"))
        for span in collector.spans
        if span.status.code == 2
    }
    assert marked == {("run", None), ("scan", "PermissionMissing"), ("page", "PermissionMissing")}
    for span in collector.named("page") + collector.named("scan"):
        if span.status.code == 2:
            assert attributes(span)["twilio.request_id"] == "RQ" + "7" * 32
            assert attributes(span)["chat_service_sid"] == bad
            assert "403" in span.status.message


def test_no_identity_and_no_endpoint_goes_out(
    make_scenario: MakeScenario, collector: Collector
) -> None:
    """Traces are read by many, and kept by others (docs/promises.md §14)."""
    scenario = make_scenario((30,))
    service = scenario.services[0]
    row = next(iter(service.bindings.values()))
    service.put({**row, "date_created": "never"}, key="BS" + "0" * 32)
    scenario.sync()
    scenario.backfill("--identity", row["identity"])
    assert len(collector.named("run")) == 2
    for binding in service.bindings.values():
        assert binding["identity"].encode() not in collector.raw
        assert binding["endpoint"].encode() not in collector.raw
    for secret in (scenario.world.api_key, scenario.world.api_secret):
        assert secret.encode() not in collector.raw


def test_a_run_that_could_not_begin_is_told(scenario: Scenario, collector: Collector) -> None:
    """The night's most likely trouble must show up on the same dashboard (exit 7)."""
    scenario.settings["warehouse"]["url"] = "sqlite:////nowhere/at/all.db"
    scenario.sync(expect=7)
    assert collector.value("run_exit_code") == 7
    [run] = collector.named("run")
    assert (run.status.code, attributes(run)["error.type"]) == (2, "WarehouseOutdated")


def test_a_dry_run_is_traced_and_not_counted(
    make_scenario: MakeScenario, collector: Collector
) -> None:
    """It published nothing, so that its figures would lie; how long it took may be of interest."""
    scenario = make_scenario((30,))
    scenario.sync("--dry-run")
    assert {span.name for span in collector.spans} == {"run", "scan", "page", "batch"}
    assert collector.metrics == {}


def test_the_standard_variables_are_heeded(
    make_scenario: MakeScenario, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs a collector has set them once for everything."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-tenant=blue")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "bindings")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=night")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    make_scenario((3,)).sync()
    assert {head["x-tenant"] for head in collector.heads} == {"blue"}
    assert collector.spans == []
    [resource] = collector.resources
    assert (resource["service.name"], resource["deployment.environment"]) == ("bindings", "night")


@pytest.mark.parametrize(
    "variables", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_EXPORTER_OTLP_ENDPOINT": ""}]
)
def test_switched_off_nothing_is_sent(
    make_scenario: MakeScenario,
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
) -> None:
    """The standard's own switch, and a variable that is set to nothing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    make_scenario((3,)).sync()
    assert collector.heads == []


def test_off_it_costs_no_import(make_scenario: MakeScenario) -> None:
    """The SDK takes longer to load than a run without changes takes in all."""
    scenario = make_scenario((3,))
    scenario.write_config()
    script = (
        "import sys; from etl.cli.app import run\n"
        f"code = run(['sync', '--config', {str(scenario.config_path)!r}])\n"
        "loaded = [name for name in sys.modules if 'opentelemetry' in name or 'google.protobuf' in name]\n"
        "sys.exit(f'{code} {loaded}' if code or loaded else 0)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr


def test_without_the_extra_a_warning_says_what_to_install(make_scenario: MakeScenario) -> None:
    """Who sets the variables and forgets the extra must not wait for traces that never come, nor lose the run."""
    scenario = make_scenario((3,))
    scenario.write_config()
    script = (
        "import os, sys; sys.modules['opentelemetry'] = None; from etl.cli.app import run\n"
        f"sys.exit(run(['sync', '--config', {str(scenario.config_path)!r}]))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=False,
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PATH": ""},
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("bindings-etl[otel]") == 1
    scenario.assert_equal_to_world()


def test_a_protocol_that_is_not_spoken_is_named(
    make_scenario: MakeScenario, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP sent to a port of gRPC would fail without a word of why; and a collector's set-up is nothing to fail for."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    result = make_scenario((3,)).sync()
    assert "telemetry.undelivered" in result.err
    assert "OTEL_EXPORTER_OTLP_PROTOCOL" in result.err
    assert collector.heads == []


def test_a_collector_that_refuses_costs_a_warning(
    make_scenario: MakeScenario, collector: Collector
) -> None:
    """The run is whole whatever its collector says (docs/promises.md §15)."""
    collector.status = 400
    scenario = make_scenario((3,))
    result = scenario.sync()
    assert result.err.count("telemetry.undelivered") == 2
    scenario.assert_equal_to_world()


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["hangs", "is down", "answers 500"])
def test_a_collector_in_trouble_costs_five_seconds_in_all(
    make_scenario: MakeScenario, collector: Collector, monkeypatch: pytest.MonkeyPatch, manner: str
) -> None:
    """Spans are sent on the way too; neither there nor at the end may the run wait for them (docs/promises.md §15)."""
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    collector.status = 500
    scenario = make_scenario((250,), max_page_size=50)
    with listening(stay_silent) as silent:
        if manner != "answers 500":
            url = silent.url if manner == "hangs" else "http://127.0.0.1:1"
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        began_at = time.monotonic()
        result = scenario.sync()
        assert time.monotonic() - began_at < 60  # a busy machine adds to the five
    assert result.err.count("telemetry.undelivered") == 2
    assert all(line.startswith("{") for line in result.err.splitlines())
    scenario.assert_equal_to_world()
