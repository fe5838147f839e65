"""Run CI's jobs locally, as .github/workflows/ci.yml defines them: `python -m scripts.ci.run_jobs [JOB …]`.

Runs the `run` steps of each job in the order of the jobs' needs, with the job's `env`. Actions are ignored; jobs that
need GitHub are skipped. Prints the wall time of each job and of the critical path, which is how long a pull request
takes if each job has its own machine. Exits 1 if a job failed.
"""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from shared.testing.paths import ROOT

WORKFLOWS = ROOT / ".github" / "workflows"


@dataclass(frozen=True)
class Job:
    """A job to run; a matrix expands to several. `key` is the name that `needs` refers to."""

    key: str
    name: str
    needs: tuple[str, ...]
    runs: tuple[str, ...]
    env: dict[str, str]
    requires_github: bool


@dataclass
class Result:
    """The result of a job, named as on GitHub, and its duration."""

    job: Job
    result: str
    seconds: float = field(default=0.0)


def load(name: str) -> dict[str, Any]:
    """Return a workflow; YAML 1.1 parses its key `on` as true."""
    workflow: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)
    return workflow


def _fill(text: str, values: dict[str, str]) -> str:
    """Replace ${{ matrix.x }} by values."""
    return re.sub(r"\$\{\{ *matrix\.(\w+) *\}\}", lambda match: values[match[1]], text)


def _combinations(job: dict[str, Any]) -> Iterator[dict[str, str]]:
    matrix = job.get("strategy", {}).get("matrix", {})
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values))


def expand(workflow: dict[str, Any], prefix: str = "", needs: tuple[str, ...] = (), key: str = "") -> list[Job]:
    """Return the jobs of a workflow in order, including the jobs of the workflows that it calls."""
    found: list[Job] = []
    for own_key, job in workflow["jobs"].items():
        listed = job.get("needs", [])
        wanted = (*needs, *([listed] if isinstance(listed, str) else listed))
        if "uses" in job:
            called = load(Path(job["uses"]).name)
            found += expand(called, f"{prefix}{job['name']} / ", wanted, key or own_key)
            continue
        for values in _combinations(job):
            found.append(
                Job(
                    key=key or own_key,
                    name=prefix + _fill(job["name"], values),
                    needs=wanted,
                    runs=tuple(step["run"] for step in job["steps"] if "run" in step),
                    env={name: _fill(str(value), values) for name, value in job.get("env", {}).items()},
                    requires_github="github.event_name" in str(job.get("if", "")),
                )
            )
    return found


def critical_path(results: list[Result]) -> tuple[float, list[str]]:
    """Return the duration of the critical path through the needs, and its jobs."""
    ends: dict[str, tuple[float, list[str]]] = {}
    for one in results:
        start = max((ends[need] for need in one.job.needs if need in ends), default=(0.0, []))
        end = (start[0] + one.seconds, [*start[1], one.job.name])
        ends[one.job.key] = max(ends.get(one.job.key, end), end)
    return max(ends.values(), default=(0.0, []))


def _skip_reason(job: Job) -> str:
    """Return why the job cannot run here, '' if it can."""
    if job.requires_github:
        return "requires GitHub"
    python = job.env.get("PYTHON", "")
    # .venv has only one version of Python.
    used = subprocess.run([str(ROOT / ".venv/bin/python"), "-V"], capture_output=True, text=True, check=True).stdout
    if python and not used.startswith(f"Python {python.removeprefix('python')}."):
        return f"requires {python}, .venv has {used.strip()}"
    return ""


def _without_sudo(command: str) -> str:
    return command.removeprefix("sudo ") if os.geteuid() == 0 or not shutil.which("sudo") else command


def _needs(job: Job, results: list[Result]) -> str:
    """Return the results of the needed jobs as GitHub's `needs` context."""
    found: dict[str, dict[str, str]] = {}
    for one in results:
        if one.job.key in job.needs and one.result != "skipped":
            worse = one.result if found.get(one.job.key, {}).get("result", "success") == "success" else "failure"
            found[one.job.key] = {"result": worse}
    return json.dumps(found)


def run(job: Job, results: list[Result]) -> Result:
    """Run the commands of the job until one fails."""
    if reason := _skip_reason(job):
        print(f"\n=== {job.name}: skipped, {reason}", flush=True)
        return Result(job, "skipped")
    print(f"\n=== {job.name}", flush=True)
    env = {**os.environ, **{name: value for name, value in job.env.items() if "${{" not in value}, "CI": "true"}
    if "NEEDS" in job.env:
        env["NEEDS"] = _needs(job, results)
    started = time.monotonic()
    # As on GitHub, the first failing step ends the job.
    succeeded = all(_run(command, env) for command in job.runs)
    return Result(job, "success" if succeeded else "failure", time.monotonic() - started)


def _run(command: str, env: dict[str, str]) -> bool:
    done = subprocess.run(["bash", "-ec", _without_sudo(command)], cwd=ROOT, env=env, check=False)  # nosec B607
    return done.returncode == 0


def main() -> int:
    """Run the jobs named on the command line, or all jobs."""
    jobs = expand(load("ci.yml"))
    wanted = set(sys.argv[1:])
    if unknown := wanted - {job.key for job in jobs}:
        print(f"ci: unknown job {' '.join(sorted(unknown))}; jobs: {' '.join(dict.fromkeys(job.key for job in jobs))}")
        return 2
    results: list[Result] = []
    for job in jobs:
        if not wanted or job.key in wanted:
            results.append(run(job, results))
    print("\n=== wall time per job")
    for one in results:
        print(f"{one.seconds:7.0f} s  {one.result:8}  {one.job.name}")
    seconds, path = critical_path(results)
    print(f"{sum(one.seconds for one in results):7.0f} s  total")
    print(f"{seconds:7.0f} s  critical path: {' → '.join(path)}")
    return 1 if any(one.result == "failure" for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
