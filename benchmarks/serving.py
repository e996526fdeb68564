"""The bench's side of the page server: starts it, switches its variant, stops it."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.world import BASE, World

ROOT = Path(__file__).resolve().parent.parent


class PageServer:
    """A running page server."""

    def __init__(self, base_url: str) -> None:
        self.base_url = base_url

    def switch(self, variant: str) -> None:
        request = urllib.request.Request(f"{self.base_url}/control/variant/{variant}", method="PUT")
        with urllib.request.urlopen(request, timeout=10) as response:
            response.read()


@contextmanager
def start_pages(world: World, variants: tuple[str, ...] = (BASE,)) -> Iterator[PageServer]:
    command = [sys.executable, "-m", "benchmarks.server", "--services", world.services]
    command += ["--rows", world.rows_per_service, "--page-size", world.page_size]
    command += ["--latency-ms", world.latency_ms, "--variants", ",".join(variants)]
    process = subprocess.Popen(
        [str(part) for part in command], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the page server did not start")
        yield PageServer(json.loads(line)["base_url"])
    finally:
        process.terminate()
        process.wait()
