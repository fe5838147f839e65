"""The jobs of the workflows, one for each combination of a matrix, as plain data."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from pathlib import Path

import yaml

from scripts.ci import expressions
from shared.testing.paths import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"


@dataclass(frozen=True)
class Job:
    """A job to run; a matrix expands to several. `key` is the name that `needs` refers to."""

    workflow: str
    key: str
    name: str
    needs: tuple[str, ...] = ()
    steps: tuple[dict[str, Any], ...] = ()
    env: dict[str, Any] = field(default_factory=dict)
    matrix: dict[str, str] = field(default_factory=dict)
    condition: str = ""


def load(name: str) -> dict[str, Any]:
    """Return a workflow; YAML 1.1 parses its key `on` as true."""
    workflow: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)
    return workflow


def _combinations(job: dict[str, Any]) -> Iterator[dict[str, str]]:
    matrix = job.get("strategy", {}).get("matrix", {})
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values))


def expand(name: str, prefix: str = "", needs: tuple[str, ...] = (), key: str = "") -> list[Job]:
    """Return the jobs of a workflow in order, including the jobs of the workflows that it calls."""
    jobs: list[Job] = []
    for own_key, job in load(name)["jobs"].items():
        listed = job.get("needs", [])
        all_needs = (*needs, *([listed] if isinstance(listed, str) else listed))
        if "uses" in job:
            jobs += expand(Path(job["uses"]).name, f"{prefix}{job['name']} / ", all_needs, key or own_key)
            continue
        for matrix in _combinations(job):
            jobs.append(
                Job(
                    workflow=name,
                    key=key or own_key,
                    name=prefix + expressions.interpolate(job["name"], {"matrix": matrix}),
                    needs=all_needs,
                    steps=tuple(job["steps"]),
                    env=job.get("env", {}),
                    matrix=matrix,
                    condition=str(job.get("if", "")),
                )
            )
    return jobs
