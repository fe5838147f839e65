"""Run the steps of a job as GitHub's runner does: as an unprivileged user, in a fresh clone, each step on its own.

A step is a bash script of its own; variables reach the next ones by the files GITHUB_ENV, GITHUB_PATH and
GITHUB_OUTPUT only. Actions have local stand-ins:

- actions/checkout: a clone of this repository, with uncommitted changes of tracked files as an additional commit
- actions/setup-python: an interpreter of this machine, or a newer one if it has no such version
- actions/cache: the tools that are built in this working tree
- actions/upload-artifact, actions/download-artifact: a folder

Steps that need GitHub's API (GH_TOKEN) are left out.
"""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from scripts.ci import expressions
from scripts.ci.workflow_jobs import Job
from shared.testing.paths import ROOT

# Variables of this machine's network; GitHub's runner needs none.
_NETWORK = re.compile(
    r"(?i)\w+_proxy|(PIP|UV)_\w+|SSL_CERT_\w+|\w+_CA_(BUNDLE|CERTS)|GIT_SSL_\w+|GOPROXY|DEBIAN_MIRROR"
)
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_IDENTITY = ("-c", "user.name=rehearsal", "-c", "user.email=rehearsal@example.org", "-c", "commit.gpgsign=false")


class Unsupported(Exception):
    """This machine cannot run the job; the message names what is missing."""


@dataclass(frozen=True)
class User:
    """The user that runs the steps, and a home folder for the rehearsal."""

    name: str
    uid: int
    gid: int
    home: Path

    def command(self, *words: str) -> list[str]:
        """Return the command as this user."""
        if os.geteuid() == self.uid:
            return list(words)
        return ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups", "--", *words]

    def own(self, *paths: Path) -> None:
        """Make the user the owner of files, and of folders with their content."""
        if os.geteuid() == 0:
            subprocess.run(["chown", "-hR", f"{self.uid}:{self.gid}", *map(str, paths)], check=True)  # nosec B607

    def stop_processes(self) -> None:
        """Kill the processes that a job left running, as GitHub removes its machine."""
        if os.geteuid() == self.uid:
            return
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if folder.stat().st_uid == self.uid:
                    os.kill(int(folder.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                continue


@contextmanager
def temporary_user() -> Iterator[User]:
    """Create an unprivileged user in the group docker with passwordless sudo; without root, use the current user."""
    with tempfile.TemporaryDirectory(prefix="bank-ci-", ignore_cleanup_errors=True) as folder:
        home = Path(folder)
        if os.geteuid() != 0:
            yield User(pwd.getpwuid(os.geteuid()).pw_name, os.geteuid(), os.getegid(), home)
            return
        name = f"bank-ci-{os.getpid()}"
        options = (f"--home-dir={folder}", "--no-create-home", "--shell=/bin/bash", "--groups=docker")
        subprocess.run(["useradd", *options, name], check=True)  # nosec B607
        rule = Path("/etc/sudoers.d") / name
        user = User(name, pwd.getpwnam(name).pw_uid, pwd.getpwnam(name).pw_gid, home)
        try:
            rule.write_text(f"{name} ALL=(ALL) NOPASSWD: ALL\n", encoding="utf-8")
            rule.chmod(0o440)
            home.chmod(0o755)
            user.own(home)
            yield user
        finally:
            user.stop_processes()
            rule.unlink(missing_ok=True)
            subprocess.run(["userdel", name], check=False, capture_output=True)  # nosec B607


def missing(user: User, needs: Mapping[str, list[str]]) -> list[str]:
    """Return the parts of the runner's image that this machine does not have for this user."""
    environment = {"PATH": _PATH, "HOME": str(user.home)}

    def works(*words: str) -> bool:
        done = subprocess.run(user.command(*words), env=environment, capture_output=True, check=False)
        return done.returncode == 0

    lacking = [name for name in needs["programs"] if not shutil.which(name, path=_PATH)]
    lacking += [f"docker {name}" for name in needs["docker_plugins"] if not works("docker", name, "version")]
    if not works("docker", "info"):
        lacking.append(f"Docker Engine, reachable for {user.name}")
    if not works("sudo", "-n", "true"):
        lacking.append("sudo without a password")
    return lacking


class Runner:
    """Runs one job in a folder of its own."""

    def __init__(self, user: User, job: Job, contexts: Mapping[str, Any], umask: int) -> None:
        self._user = user
        self._job = job
        self._umask = umask
        self._folder = user.home / "work" / re.sub(r"\W+", "-", f"{job.workflow}-{job.name}")
        self._artifacts = user.home / "artifacts"
        self.workspace = self._folder / "checkout"
        self._temporary = self._folder / "temporary"
        self._paths: list[str] = []
        self._failed = False
        self._contexts = {
            **contexts,
            "matrix": job.matrix,
            "env": {},
            "steps": {},
            "runner": {"os": "Linux", "temp": str(self._temporary)},
        }
        self._variables = {name: self._fill(value, {}) for name, value in job.env.items()}

    def run(self) -> bool:
        """Run all steps; return whether none failed."""
        self._temporary.mkdir(parents=True)
        self._artifacts.mkdir(exist_ok=True)
        self._user.own(self._user.home / "work", self._artifacts)
        try:
            for number, step in enumerate(self._job.steps):
                self._contexts["job"] = {"status": "failure" if self._failed else "success"}
                if not expressions.condition(str(step.get("if", "")), self._contexts, self._failed):
                    continue
                if not (self._use(step) if "uses" in step else self._step(number, step)):
                    self._failed = True
        finally:
            self._user.stop_processes()
            shutil.rmtree(self._folder, ignore_errors=True)
        return not self._failed

    def _fill(self, value: Any, more: Mapping[str, Any]) -> str:
        return expressions.interpolate(value, {**self._contexts, **more}, self._failed)

    def _environment(self, step: dict[str, Any]) -> dict[str, str]:
        """Return the variables of a step; nothing of this machine's environment but its network."""
        github = self._contexts["github"]
        return {
            **{name: value for name, value in os.environ.items() if _NETWORK.fullmatch(name)},
            "PATH": ":".join([*reversed(self._paths), _PATH]),
            "HOME": str(self._user.home),
            "USER": self._user.name,
            "LOGNAME": self._user.name,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_JOB": self._job.key,
            "RUNNER_OS": "Linux",
            "RUNNER_TEMP": str(self._temporary),
            **{
                f"GITHUB_{name.upper()}": github[name]
                for name in ("actor", "event_name", "ref", "repository", "run_id", "run_number", "server_url", "sha")
            },
            **self._variables,
            **{name: self._fill(value, {}) for name, value in step.get("env", {}).items()},
        }

    def _step(self, number: int, step: dict[str, Any]) -> bool:
        if "GH_TOKEN" in step.get("env", {}):
            print(f"--- {step['run']}: left out, it calls GitHub's API", flush=True)
            return True
        print(f"--- {step['run']}", flush=True)
        files = {name: self._temporary / f"{number}-{name}" for name in ("ENV", "PATH", "OUTPUT", "STEP_SUMMARY")}
        script = self._temporary / f"{number}.sh"
        script.write_text(self._fill(step["run"], {}) + "\n", encoding="utf-8")
        for file in files.values():
            file.touch()
        self._user.own(self._temporary)
        environment = self._environment(step) | {f"GITHUB_{name}": str(file) for name, file in files.items()}
        done = subprocess.run(
            self._user.command("bash", "-e", str(script)),
            cwd=self.workspace,
            env=environment,
            stdin=subprocess.DEVNULL,
            umask=self._umask,
            check=False,
        )
        self._variables |= assignments(files["ENV"].read_text(encoding="utf-8"))
        self._paths += files["PATH"].read_text(encoding="utf-8").split()
        outputs = assignments(files["OUTPUT"].read_text(encoding="utf-8"))
        self._contexts["steps"][step.get("id", str(number))] = {"outputs": outputs}
        return done.returncode == 0

    def _use(self, step: dict[str, Any]) -> bool:
        """Run the local stand-in of an action."""
        action = step["uses"].partition("@")[0]
        inputs = {name: self._fill(value, {}) for name, value in step.get("with", {}).items()}
        match action:
            case "actions/checkout":
                clone(self.workspace, self._umask)
                self._user.own(self._folder)
            case "actions/setup-python":
                self._set_up_python(inputs["python-version"])
            case "actions/cache":
                self._restore(inputs["path"])
            case "actions/upload-artifact":
                return self._upload(inputs)
            case "actions/download-artifact":
                return self._download(inputs)
            case _:
                print(f"--- {action}: FAILED, there is no stand-in", flush=True)
                return False
        return True

    def _set_up_python(self, version: str) -> None:
        program = find_python(version)
        folder = self._temporary / "python"
        folder.mkdir()
        for name in ("python", "python3"):
            (folder / name).symlink_to(program)
        self._user.own(folder)
        self._paths.append(str(folder))
        if not program.endswith(version):
            print(f"--- actions/setup-python: {program} instead of Python {version}", flush=True)

    def _restore(self, path: str) -> None:
        if (ROOT / path).is_dir():
            shutil.copytree((ROOT / path).resolve(), self.workspace / path, dirs_exist_ok=True)
            self._user.own(self.workspace / path)

    def _upload(self, inputs: Mapping[str, str]) -> bool:
        source = self.workspace / inputs["path"]
        if not source.exists() or not any(source.iterdir()):
            print(f"--- actions/upload-artifact: no files in {inputs['path']}", flush=True)
            return inputs.get("if-no-files-found") != "error"
        shutil.copytree(source, self._artifacts / inputs["name"], dirs_exist_ok=True)
        return True

    def _download(self, inputs: Mapping[str, str]) -> bool:
        target = self.workspace / inputs["path"]
        pattern = inputs.get("name") or inputs["pattern"]
        artifacts = [path for path in sorted(self._artifacts.iterdir()) if fnmatch(path.name, pattern)]
        merge = "name" in inputs or inputs.get("merge-multiple") == "true"
        for artifact in artifacts:
            shutil.copytree(artifact, target if merge else target / artifact.name, dirs_exist_ok=True)
        if target.exists():
            self._user.own(target)
        return bool(artifacts) or "name" not in inputs


def assignments(content: str) -> dict[str, str]:
    """Return the variables in a file for GITHUB_ENV or GITHUB_OUTPUT: NAME=value, or NAME<<END with lines until END."""
    variables: dict[str, str] = {}
    lines = iter(content.splitlines())
    for line in lines:
        if match := re.fullmatch(r"(\w+)<<(\S+)", line):
            variables[match[1]] = "\n".join(iter(lambda end=match[2]: next(lines, end), match[2]))
        elif "=" in line:
            name, _, value = line.partition("=")
            variables[name] = value
    return variables


def find_python(version: str) -> str:
    """Return an interpreter of this version or, for lack of it, the newest of at least 3.11. Raises Unsupported."""
    names = [f"python{version}", "python3.14", "python3.13", "python3.12", "python3.11"]
    for name in names:
        if program := shutil.which(name, path=_PATH):
            return program
    raise Unsupported(f"no Python {version} in {_PATH}")


def clone(folder: Path, umask: int) -> None:
    """Clone this repository; uncommitted changes of tracked files become another commit."""

    def git(*words: str, stdin: bytes = b"", cwd: Path = folder) -> bytes:
        return subprocess.run(  # nosec B607
            ["git", *words], cwd=cwd, input=stdin, stdout=subprocess.PIPE, umask=umask, check=True
        ).stdout

    git("clone", "--quiet", "--no-hardlinks", str(ROOT), str(folder), cwd=ROOT)
    changes = git("diff", "--binary", "HEAD", cwd=ROOT)
    if changes:
        git("apply", "--index", "--whitespace=nowarn", stdin=changes)
        git(*_IDENTITY, "commit", "--quiet", "--no-verify", "--message", "ci: rehearse uncommitted changes")
