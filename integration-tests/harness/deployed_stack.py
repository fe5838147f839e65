"""Good and faulty releases in a dedicated registry, and a stack on this machine that Ansible deploys them to."""

import json
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.commands import ENVIRONMENT, kill, run, start
from harness.registry import LocalRegistry
from harness.client import Bank, output_of

from shared.testing import lab_keys
from shared.testing.paths import ROOT
from shared.testing.ports import free_port

REPOSITORY = "https://git.example/distributed-banking-ops"
SERVICES = ("account-service", "transaction-service")
_OTHERS = ("autoscale-service", "rollout-service")
_FAULTY = ROOT / "scripts" / "faults"
Report = Callable[[str], None]


class Releases:
    """Releases in a local registry, signed with a dedicated key. Attested ones are built from the commit; others are
    rehearsal releases of the working tree, possibly with an injected fault."""

    def __init__(self, folder: Path, report: Report, attested: bool = False) -> None:
        self._folder = folder
        self._report = report
        self._numbers = int(time.time())
        self._registry = LocalRegistry(folder / "registry")
        self._environment = {
            "REGISTRY": self._registry.prefix,
            "COSIGN_KEY": str(folder / "cosign.key"),
            "COSIGN_PASSWORD": "rehearsal",
            **({"REPOSITORY": REPOSITORY} if attested else {"ATTEST": "0", "REHEARSAL": "1"}),
        }
        self.public_key = folder / "cosign.pub"

    @property
    def port(self) -> int:
        """The port of the registry on loopback."""
        return int(self._registry.address.rpartition(":")[2])

    def close(self) -> None:
        """Stop the registry and remove the images."""
        self._registry.close()

    def build(self, version: str, offline: bool) -> Path:
        """Build, push and sign the real images under a version; return the release."""
        if not self.public_key.exists():
            run(
                ["scripts/release/cosign.sh", "generate-key-pair", f"--output-key-prefix={self._folder}/cosign"],
                **self._environment,
            )
        images = {"PYTHON_IMAGE": "bank-offline/python:3.13"} if offline else {}
        return self._release(version, BUILD="1", **images)

    def derive(self, version: str, base: str, fault: str, **environment: str) -> Path:
        """Derive a release: the same images with a fault (or "none") and another version."""
        registry = self._environment["REGISTRY"]
        for service in SERVICES:
            arguments = {"RELEASE": f"{registry}/{service}:{base}", "FAULT": fault, "VERSION": version}
            words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
            run(["docker", "build", "--quiet", *words, "--tag", f"{registry}/{service}:{version}", str(_FAULTY)])
        for service in _OTHERS:
            run(["docker", "tag", f"{registry}/{service}:{base}", f"{registry}/{service}:{version}"])
        return self._release(version, BUILD="0", REHEARSAL="1", **environment)

    def digest(self, version: str, service: str = "account-service") -> str:
        """Return the reference by digest of an image that was pushed."""
        name = f"{self._environment['REGISTRY']}/{service}"
        found = run(["docker", "image", "inspect", "--format", '{{join .RepoDigests "\\n"}}', f"{name}:{version}"])
        return next(line for line in found.splitlines() if line.startswith(f"{name}@"))

    def unsigned_digest(self) -> str:
        """Push an unsigned image and return its reference."""
        name = f"{self._environment['REGISTRY']}/account-service"
        words = ["--build-arg", f"RELEASE={name}:base", "--build-arg", "FAULT=none", "--build-arg", "VERSION=nobody"]
        run(["docker", "build", "--quiet", *words, "--tag", f"{name}:nobody", str(_FAULTY)])
        run(["docker", "push", "--quiet", f"{name}:nobody"])
        return self.digest("nobody")

    @staticmethod
    def with_image(release: str, service: str, image: str) -> str:
        """Return a release with another image of a service; "tag" is its own image, referenced by tag."""
        document = json.loads(release)
        images = document["banking_app_release"]["images"]
        images[service] = images[service].partition("@")[0] + ":base" if image == "tag" else image
        return json.dumps(document)

    def _release(self, version: str, **environment: str) -> Path:
        file = self._folder / f"{version}.json"
        self._numbers += 1
        started = time.monotonic()
        identity = {"VERSION": version, "RELEASE_NUMBER": str(self._numbers)}
        run(["scripts/release/release.sh", str(file)], **{**self._environment, **identity, **environment})
        self._report(f"release {version}: made in {time.monotonic() - started:.0f} s")
        return file


@dataclass(frozen=True, slots=True)
class Deployment:
    """The result of a deployment."""

    code: int
    output: str
    began: float
    ended: float


class DeployedBank(Bank):
    """A bank that Ansible has deployed on this machine, with a project, folders and port of its own."""

    def __init__(
        self, folder: Path, key: Path, offline: bool, steps: Mapping[str, Any], attested: bool = False
    ) -> None:
        self._folder = folder / "host"
        secrets = lab_keys.ensure(folder / "secrets")
        self.project = f"canary-{os.getpid()}"
        port = free_port()
        self._variables = folder / "variables.json"
        variables = {
            "banking_app_dir": str(self._folder),
            "banking_app_state_dir": str(folder / "state"),
            "banking_app_project": self.project,
            "banking_app_cosign_keys": [str(key)],
            "banking_app_require_attestations": attested,
            "banking_app_rehearsal": not attested,
            "banking_app_repository": REPOSITORY,
            "banking_app_cosign_options": ["--allow-insecure-registry"],
            "banking_app_environment": {
                "BANK_PORT": str(port),
                "AUTOSCALE_MIN_REPLICAS": "1",
                **({"COMPOSE_PROFILES": "", "OTEL_EXPORTER_OTLP_ENDPOINT": ""} if offline else {}),
            },
            "banking_app_environment_files": ["docker/offline/images.env"] if offline else [],
            "banking_app_secrets": {"jwks": secrets.jwks.read_text(encoding="utf-8")},
            "banking_app_synthetic_token": lab_keys.sign(secrets.key, "rollout-service", "bank:synthetic"),
            "nginx_canary_dir": str(self._folder),
            "nginx_canary_state_dir": str(folder / "state"),
            **steps,
        }
        self._variables.write_text(json.dumps(variables), encoding="utf-8")
        self._driver: "subprocess.Popen[str] | None" = None
        self.state_file = folder / "state" / "rollout.json"
        super().__init__(f"http://127.0.0.1:{port}", secrets)

    def start_deploy(self, release: Path, *more: str) -> "subprocess.Popen[str]":
        """Start a deployment in its own process group; stop the remaining processes of the previous one."""
        if self._driver is not None and self._driver.poll() is None:
            kill(self._driver)
        words = ["--extra-vars", f"@{self._variables}", *more]
        environment = {**ENVIRONMENT, "RELEASE": str(release), "ARGS": " ".join(words)}
        self._driver = start(["make", "deploy"], environment)
        return self._driver

    def wait_for_state(self, process: "subprocess.Popen[str]", state: Callable[[dict[str, Any]], bool]) -> None:
        """Wait until the rollout has reached a state; fail with the end of the output if the deployment ends first."""
        while not state(self.state()):
            assert process.poll() is None, process.communicate()[0][-4000:]
            time.sleep(0.1)

    def deploy(self, release: Path, *more: str) -> Deployment:
        """Deploy a release and wait for the end."""
        started = time.time()
        process = self.start_deploy(release, *more)
        output, _ = process.communicate(timeout=1800)
        return Deployment(process.returncode, output, started, time.time())

    def detach_driver(self) -> None:
        """Keep the last deployment running alongside the next one; the caller ends it."""
        self._driver = None

    def rollback_environment(self) -> dict[str, str]:
        """Return the environment in which `make rollback` applies to this stack."""
        return {**ENVIRONMENT, "ARGS": f"--extra-vars @{self._variables}"}

    def compose(self, *arguments: str) -> str:
        """Run `docker compose` on this stack and return what it printed."""
        return output_of(["docker", "compose", *arguments], os.environ, 180, self._folder)

    def run_module(self, service: str, module: str) -> str:
        return self.compose("exec", "-T", service, "python", "-m", module)

    def autoscale_cli(self, *arguments: str) -> str:
        """Run a command of the autoscaler's CLI and return its output."""
        return self.compose("exec", "-T", "autoscale-service", "python", "-m", "app.cli", *arguments)

    def state(self) -> dict[str, Any]:
        """Return the state of the rollout; it is empty before the first one."""
        if not self.state_file.exists():
            return {"id": "", "phase": "idle", "weight": 0, "reason": "", "outcome": "", "history": []}
        found: dict[str, Any] = json.loads(self.state_file.read_text(encoding="utf-8"))
        return found

    def deployed(self) -> str:
        """Return the version that is recorded as deployed."""
        record = json.loads((self._folder / "deployed.json").read_text(encoding="utf-8"))
        return str(record["version"])

    def containers(self, track: str) -> list[str]:
        """Return the names of the containers of a track, including stopped ones."""
        labels = [f"label=com.docker.compose.project={self.project}", f"label=banking.track={track}"]
        filters = [word for label in labels for word in ("--filter", label)]
        return run(["docker", "ps", "--all", "--format", "{{.Names}}", *filters]).split()

    def revision(self) -> str:
        """Return the name of NGINX's current configuration."""
        return self.compose("exec", "-T", "nginx", "wget", "-q", "-O", "-", "http://127.0.0.1:8081/revision").strip()

    def access_log(self, since: float) -> list[dict[str, Any]]:
        """Return NGINX's access log since a time."""
        name = self.compose("ps", "--quiet", "nginx").strip()
        found = []
        for line in run(["docker", "logs", "--since", f"{since:.3f}", "--timestamps", name]).splitlines():
            moment, _, text = line.partition(" ")
            if text.startswith("{"):
                found.append({**json.loads(text), "at": moment})
        return found

    def canary_addresses(self) -> set[str]:
        """Return address:port of the canaries on NGINX's network."""
        template = f'{{{{(index .NetworkSettings.Networks "{self.project}_backend").IPAddress}}}}'
        names = self.containers("canary")
        if not names:
            return set()
        done = subprocess.run(
            ["docker", "inspect", "--format", template, *names], capture_output=True, text=True, check=False
        )
        return {f"{address}:8000" for address in done.stdout.split()}

    def scale(self, replicas: int) -> None:
        """Scale both services to a number of replicas through the autoscaler."""
        for service in SERVICES:
            self.autoscale_cli("scale", service, str(replicas))

    def close(self) -> None:
        super().close()
        if self._driver is not None and self._driver.poll() is None:
            kill(self._driver)
        if (self._folder / "docker-compose.yml").exists():
            profiles = [word for name in ("canary", "previous") for word in ("--profile", name)]
            self.compose(*profiles, "down", "--volumes", "--remove-orphans")
