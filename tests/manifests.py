"""The manifests in deploy/kubernetes, as kustomize renders them."""

import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.programs import find_program

KUBERNETES = Path(__file__).parents[1] / "deploy/kubernetes"
KUSTOMIZATIONS = ("base", "migrate", "backfill", "sharded")

Document = dict[str, Any]


class Pod(NamedTuple):
    """What starts a pod, and the pod itself."""

    name: str
    job: Document
    """The specification of its Job."""
    labels: dict[str, str]
    spec: Document

    @property
    def container(self) -> Document:
        [container] = self.spec["containers"]
        return dict(container)


@cache
def render(folder: Path) -> list[Document]:
    """Return every document of a kustomization."""
    command = [find_program("kubectl"), "kustomize", str(folder)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (told.returncode, told.stderr) == (0, "")
    return list(yaml.safe_load_all(told.stdout))


def pods(name: str) -> Iterator[Pod]:
    """Return what runs, of one of `KUSTOMIZATIONS`."""
    for document in render(KUBERNETES / name):
        if document["kind"] in {"CronJob", "Job"}:
            job = document["spec"].get("jobTemplate", document)["spec"]
            template = job["template"]
            labels = template["metadata"]["labels"]
            yield Pod(document["metadata"]["name"], job, labels, template["spec"])
