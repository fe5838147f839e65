"""Run CI's jobs locally, as .github/workflows/ci.yml defines them: `python -m scripts.ci.run_jobs [JOB …]`.

Every `run` of every job is executed in the order of the jobs' needs, with the job's `env`; what only GitHub can do
(actions, jobs with a token) is left out and named. Prints the wall time of each job and of the critical path, which is
what a pull request waits for when each job has a machine of its own. Exits 1 when a job failed.
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
    """One job as it runs: a matrix gives several, called after it. `key` is the one that `needs` speaks of."""

    key: str
    name: str
    needs: tuple[str, ...]
    runs: tuple[str, ...]
    env: dict[str, str]
    on_github_only: bool


@dataclass
class Result:
    """What became of a job: GitHub's words for it, and how many seconds it took."""

    job: Job
    result: str
    seconds: float = field(default=0.0)


def load(name: str) -> dict[str, Any]:
    """Return a workflow; YAML 1.1 takes its key `on` for true."""
    workflow: dict[Any, Any] = yaml.safe_load((WORKFLOWS / name).read_text(encoding="utf-8"))
    workflow["on"] = workflow.pop(True)
    return workflow


def _fill(text: str, values: dict[str, str]) -> str:
    """Put values in the place of ${{ matrix.x }}."""
    return re.sub(r"\$\{\{ *matrix\.(\w+) *\}\}", lambda match: values[match[1]], text)


def _combinations(job: dict[str, Any]) -> Iterator[dict[str, str]]:
    matrix = job.get("strategy", {}).get("matrix", {})
    for values in itertools.product(*matrix.values()):
        yield dict(zip(matrix, values))


def expand(workflow: dict[str, Any], prefix: str = "", needs: tuple[str, ...] = (), key: str = "") -> list[Job]:
    """Return the jobs of a workflow in its order, those of the workflows that it calls among them."""
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
                    on_github_only="github.event_name" in str(job.get("if", "")),
                )
            )
    return found


def critical_path(results: list[Result]) -> tuple[float, list[str]]:
    """Return the seconds of the longest way through the needs, and its jobs."""
    ends: dict[str, tuple[float, list[str]]] = {}
    for one in results:
        before = max((ends[need] for need in one.job.needs if need in ends), default=(0.0, []))
        end = (before[0] + one.seconds, [*before[1], one.job.name])
        ends[one.job.key] = max(ends.get(one.job.key, end), end)
    return max(ends.values(), default=(0.0, []))


def _left_out(job: Job) -> str:
    """Return why the job cannot run here, '' when it can."""
    if job.on_github_only:
        return "only on GitHub"
    python = job.env.get("PYTHON", "")
    # One environment, .venv, has one Python.
    used = subprocess.run([str(ROOT / ".venv/bin/python"), "-V"], capture_output=True, text=True, check=True).stdout
    if python and not used.startswith(f"Python {python.removeprefix('python')}."):
        return f"for {python}; .venv is {used.strip()}"
    return ""


def _here(command: str) -> str:
    return command.removeprefix("sudo ") if os.geteuid() == 0 or not shutil.which("sudo") else command


def _needs(job: Job, results: list[Result]) -> str:
    """Return the results of the jobs before this one, as GitHub hands them over."""
    found: dict[str, dict[str, str]] = {}
    for one in results:
        if one.job.key in job.needs and one.result != "left out":
            worse = one.result if found.get(one.job.key, {}).get("result", "success") == "success" else "failure"
            found[one.job.key] = {"result": worse}
    return json.dumps(found)


def run(job: Job, results: list[Result]) -> Result:
    """Run every command of the job, until one fails."""
    if reason := _left_out(job):
        print(f"\n=== {job.name}: left out, {reason}", flush=True)
        return Result(job, "left out")
    print(f"\n=== {job.name}", flush=True)
    env = {**os.environ, **{name: value for name, value in job.env.items() if "${{" not in value}, "CI": "true"}
    if "NEEDS" in job.env:
        env["NEEDS"] = _needs(job, results)
    started = time.monotonic()
    # Steps of a job share their shell's rules on GitHub: the first that fails ends it.
    good = all(
        subprocess.run(["bash", "-ec", _here(command)], cwd=ROOT, env=env, check=False).returncode == 0  # nosec B607
        for command in job.runs
    )
    return Result(job, "success" if good else "failure", time.monotonic() - started)


def main() -> int:
    """Run the jobs that the command line names, or all."""
    jobs = expand(load("ci.yml"))
    wanted = set(sys.argv[1:])
    if unknown := wanted - {job.key for job in jobs}:
        print(
            f"ci: there is no job {' '.join(sorted(unknown))}; jobs: {' '.join(dict.fromkeys(job.key for job in jobs))}"
        )
        return 2
    results: list[Result] = []
    for job in jobs:
        if not wanted or job.key in wanted:
            results.append(run(job, results))
    print("\n=== wall time per job")
    for one in results:
        print(f"{one.seconds:7.0f} s  {one.result:8}  {one.job.name}")
    seconds, path = critical_path(results)
    print(f"{sum(one.seconds for one in results):7.0f} s  one after another")
    print(f"{seconds:7.0f} s  critical path: {' → '.join(path)}")
    return 1 if any(one.result == "failure" for one in results) else 0


if __name__ == "__main__":
    sys.exit(main())
