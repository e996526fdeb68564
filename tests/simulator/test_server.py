"""The server: in a thread, in the foreground, and while its world moves."""

import contextlib
import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import httpx
import pytest

from etl.simulator import Simulator, World

OPEN_FILES = Path("/proc/self/fd")

FOREGROUND = """
from etl.simulator import Simulator, build_demo
world = build_demo(2, 10, seed=1)
def ready(url):
    print(url, world.api_key, world.api_secret, flush=True)
Simulator(world).run_forever(on_ready=ready)
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_foreground_serves_until_a_signal(ending):
    """If this failed, the command line could not run the simulator, or could not end it."""
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FOREGROUND],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url, key, secret = process.stdout.readline().split()
        assert len(httpx.get(f"{url}/v1/Services", auth=(key, secret)).json()["services"]) == 2
        process.send_signal(ending)
        said, complained = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert said == ""
    assert process.returncode in {-ending, 128 + ending}
    assert complained == "" or "KeyboardInterrupt" in complained.splitlines()[-1]


def test_simulator_imports_nothing_else_of_the_project():
    """If this failed, the witness could share a fault with the program it judges."""
    script = "import sys, etl.simulator; print(*[name for name in sys.modules if name.startswith('etl.')])"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded
    assert all(name.startswith("etl.simulator") for name in loaded)


@pytest.mark.parametrize("order", ["sid", "updated"])
def test_world_may_move_while_it_is_read(stand, order):
    """If this failed, a test that changes the world during a run would break the server."""
    here = stand(300, order=order)
    thread = threading.Thread(target=churn, args=(here.service,))
    thread.start()
    while thread.is_alive():
        sids = [row["sid"] for row in here.rows(PageSize=40)]
        assert len(sids) >= 250
        assert order == "updated" or len(set(sids)) == len(sids)
    thread.join()
    assert {row["sid"]: row for row in here.rows()} == dict(here.service.bindings)


def churn(service):
    """Change a service in all ways for a while."""
    for _ in range(50):
        service.delete(40)
        service.bring_back(40)
        service.touch(3)
        service.shuffle_message_types(3)


def test_serving_makes_no_noise(caplog, capfd):
    """If this failed, the simulator's talk would mix with that of the program under test."""
    world = World(1)
    service = world.add_service(3)
    with caplog.at_level(0), Simulator(world, faults=["reset:2", "cut-body:3"]).serve() as url:
        for _ in range(6):
            with contextlib.suppress(httpx.TransportError):
                httpx.get(
                    f"{url}/v1/Services/{service.sid}/Bindings",
                    auth=(world.api_key, world.api_secret),
                )
    assert [record.name for record in caplog.records if record.name.startswith("uvicorn")] == []
    assert capfd.readouterr() == ("", "")


def test_threads_end_with_the_context():
    """If this failed, a test session would gather threads."""
    before = threading.active_count()
    for _ in range(3):
        with Simulator(World(1)).serve():
            assert threading.active_count() == before + 1
    assert threading.active_count() == before


@pytest.mark.skipif(not OPEN_FILES.is_dir(), reason="open files cannot be counted here")
def test_connections_end_with_the_context(stand):
    """If this failed, a test session would run out of open files."""
    before = len(list(OPEN_FILES.iterdir()))
    for _ in range(3):
        here = stand(3)
        here.rows()
        here.client.close()
        here.stop()
    assert len(list(OPEN_FILES.iterdir())) <= before + 1


def test_bodies_are_json_in_utf8(stand):
    """If this failed, names outside ASCII would arrive spoiled."""
    here = stand(100)
    answer = here.get(PageSize=100)
    assert json.loads(answer.content.decode("utf-8"))["bindings"] == list(
        here.service.bindings.values()
    )
