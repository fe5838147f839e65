"""Rehearse the workflows on this machine: `python -m scripts.ci.run_jobs [JOB …]`.

Runs the jobs of ci.yml and security-scan.yml, of cve-scan.yml and the build of deploy.yml as scripts/ci/runner.py
describes; JOB is a key of a job, such as lint, or the name of one of a matrix. UMASK=077 sets the umask of checkout and
steps (default 022). Started as root, it creates a user like the runner's and removes it afterwards.
Prints the wall time of each job and of the critical path, which is how long a pull request takes if each job has its
own machine. Exits 1 if a job failed.
"""

import os
import platform
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.ci import expressions
from scripts.ci.runner import Runner, Unsupported, User, find_python, missing, temporary_user
from scripts.ci.workflow_jobs import Job, expand
from shared.testing.paths import ROOT
from shared.testing.ports import free_port

# Each workflow with its event, and the jobs of it that run; the others deploy to hosts or ask GitHub.
_WORKFLOWS: dict[str, tuple[str, set[str]]] = {
    "ci.yml": ("pull_request", set()),
    "cve-scan.yml": ("schedule", {"scan"}),
    "deploy.yml": ("push", {"build"}),
}
# Names of Docker, by those of the kernel.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
_REPOSITORY = "example/distributed-banking-ops"
# User and password of the rehearsal's registry, and the bcrypt hash of the password.
_REGISTRY_LOGIN = ("rehearsal", "rehearsal")
_HASH = "$2b$04$QyFB6/oBTKpTJFI2IgRgdO28JrV81q0TSLYs8ovxEe6vjdSsBfo7u"


@dataclass
class Result:
    """The result of a job, named as on GitHub, and its duration."""

    job: Job
    result: str
    seconds: float = field(default=0.0)


def critical_path(results: list[Result]) -> tuple[float, list[str]]:
    """Return the duration of the critical path through the needs, and its jobs."""
    ends: dict[str, tuple[float, list[str]]] = {}
    for result in results:
        start = max((ends[need] for need in result.job.needs if need in ends), default=(0.0, []))
        end = (start[0] + result.seconds, [*start[1], result.job.name])
        ends[result.job.key] = max(ends.get(result.job.key, end), end)
    return max(ends.values(), default=(0.0, []))


def needs_context(job: Job, results: list[Result]) -> dict[str, dict[str, str]]:
    """Return GitHub's context `needs` from the jobs that ran; a job that did not run is left out."""
    results_by_job: dict[str, dict[str, str]] = {}
    for result in results:
        if result.job.key in job.needs and result.result != "skipped":
            earlier = results_by_job.get(result.job.key, {}).get("result", "success")
            results_by_job[result.job.key] = {"result": result.result if earlier == "success" else "failure"}
    return results_by_job


def selected(names: set[str]) -> list[Job]:
    """Return the jobs with these names; all of them without names. Raises ValueError for an unknown one."""
    jobs = [job for name, (_, keys) in _WORKFLOWS.items() for job in expand(name) if not keys or job.key in keys]
    if unknown := names - {job.key for job in jobs} - {job.name for job in jobs}:
        keys = " ".join(dict.fromkeys(job.key for job in jobs))
        raise ValueError(f"unknown job {' '.join(sorted(unknown))}; jobs: {keys}")
    return [job for job in jobs if not names or job.key in names or job.name in names]


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)  # nosec B607
    return done.stdout.strip()


def github_context(event: str) -> dict[str, Any]:
    """Return GitHub's context `github` for a pull request of this commit to its own repository."""
    bases = (_git("merge-base", "HEAD", branch) for branch in ("origin/develop", "develop", "origin/main", "main"))
    head = _git("rev-parse", "HEAD")
    base = next((commit for commit in bases if commit and commit != head), _git("rev-parse", "HEAD~1"))
    pull_request = {
        "number": 1,
        "draft": False,
        "base": {"sha": base},
        "head": {"sha": head, "repo": {"full_name": _REPOSITORY}},
    }
    return {
        "actor": "rehearsal",
        "event_name": event,
        "event": {"pull_request": pull_request if event == "pull_request" else None},
        "ref": "refs/heads/main",
        "repository": _REPOSITORY,
        "run_id": "1",
        "run_number": "1",
        "server_url": "https://github.com",
        "sha": head,
    }


def _base_images_available() -> bool:
    """Return whether the base images are present, or their registry responds."""
    line = next(line for line in (ROOT / ".env").read_text("utf-8").splitlines() if line.startswith("PYTHON_IMAGE="))
    image = line.partition("=")[2]
    for words in (["image", "inspect", image], ["buildx", "imagetools", "inspect", image]):
        command = ["timeout", "10", "docker", *words]
        if subprocess.run(command, capture_output=True, check=False).returncode == 0:  # nosec B607
            return True
    return False


def _offline_image() -> str:
    lines = (ROOT / "docker/offline/images.env").read_text(encoding="utf-8").splitlines()
    return next(line.partition("=")[2] for line in lines if line.startswith("PYTHON_IMAGE="))


@contextmanager
def release_settings(user: User) -> Iterator[dict[str, dict[str, str]]]:
    """Provide the variables and secrets of the build: a registry with a user, and a signing key."""
    folder = user.home / "registry"
    folder.mkdir()
    username, password = _REGISTRY_LOGIN
    (folder / "users").write_text(f"{username}:{_HASH}\n", encoding="utf-8")
    environment = {
        **os.environ,
        "REGISTRY_DIR": str(folder),
        "REGISTRY_PORT": str(free_port()),
        "REGISTRY_HTPASSWD": str(folder / "users"),
        "COSIGN_PASSWORD": password,
    }

    def output_of(*words: str, cwd: Path = ROOT) -> str:
        done = subprocess.run(words, cwd=cwd, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout.strip()

    address = output_of("scripts/images/local_registry.sh", "start")
    try:
        output_of(str(ROOT / "scripts/release/cosign.sh"), "generate-key-pair", cwd=folder)
        yield {
            "vars": {"REGISTRY": f"{address}/bank"},
            "secrets": {
                "REGISTRY_USERNAME": username,
                "REGISTRY_PASSWORD": password,
                "COSIGN_PRIVATE_KEY": (folder / "cosign.key").read_text(encoding="utf-8"),
                "COSIGN_PASSWORD": password,
            },
        }
    finally:
        output_of("scripts/images/local_registry.sh", "stop")


def run(job: Job, user: User, results: list[Result], umask: int) -> Result:
    """Run a job, or print why it is skipped."""
    event = _WORKFLOWS.get(job.workflow, ("pull_request", set()))[0]
    needs = needs_context(job, results)
    contexts: dict[str, Any] = {"github": github_context(event), "needs": needs, "inputs": {}, "vars": {}}
    contexts["secrets"] = {}
    print(f"\n=== {job.name}", flush=True)
    started = time.monotonic()
    try:
        if python := job.matrix.get("python", ""):
            _require_python(python)
        failed = any(need["result"] != "success" for need in needs.values())
        if not expressions.condition(job.condition, contexts, failed):
            raise Unsupported("its condition is false")
        offline = job.workflow in ("cve-scan.yml", "deploy.yml") and not _base_images_available()
        if offline and job.workflow == "cve-scan.yml":
            raise Unsupported("it requires a registry with the base images and the advisory databases")
        if offline:
            print(f"--- base image: {_offline_image()}, because no registry has that of .env", flush=True)
            # It is only for this machine's architecture.
            variables = {"PYTHON_IMAGE": _offline_image(), "PLATFORMS": f"linux/{_ARCHITECTURES[platform.machine()]}"}
            job = Job(**{**vars(job), "env": {**job.env, **variables}})
        if job.workflow == "deploy.yml":
            with release_settings(user) as settings:
                succeeded = Runner(user, job, contexts | settings, umask).run()
        else:
            succeeded = Runner(user, job, contexts, umask).run()
    except Unsupported as reason:
        print(f"--- skipped: {reason}", flush=True)
        return Result(job, "skipped")
    return Result(job, "success" if succeeded else "failure", time.monotonic() - started)


def _require_python(version: str) -> None:
    """Raise Unsupported if this version of a matrix is missing: with another one, a job would run twice."""
    if not find_python(version).endswith(version):
        raise Unsupported(f"it requires Python {version}, which this machine does not have")


def main() -> int:
    """Run the jobs named on the command line, or all jobs."""
    try:
        jobs = selected(set(sys.argv[1:]))
    except ValueError as error:
        print(f"ci: {error}", file=sys.stderr)
        return 2
    results: list[Result] = []
    # Removes the user as well if the rehearsal is stopped.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    with temporary_user() as user:
        if lacking := missing(user, tomllib.loads((ROOT / ".ci/runner.toml").read_text(encoding="utf-8"))):
            print(
                f"ci: this machine lacks {', '.join(lacking)}, which the runner has (.ci/runner.toml)", file=sys.stderr
            )
            return 1
        for job in jobs:
            results.append(run(job, user, results, int(os.environ.get("UMASK", "022"), 8)))
    print("\n=== wall time per job")
    for result in results:
        print(f"{result.seconds:7.0f} s  {result.result:8}  {result.job.name}")
    seconds, path = critical_path(results)
    print(f"{sum(result.seconds for result in results):7.0f} s  total")
    print(f"{seconds:7.0f} s  critical path: {' → '.join(path)}")
    return 1 if any(result.result == "failure" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
