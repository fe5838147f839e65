"""The composed stack that `make up` has started, seen from its host: containers, rollout-service, NGINX's log."""

import json
import os
import re
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from shared.testing.paths import ROOT

SERVICES = ("account-service", "transaction-service")
CANARIES = tuple(f"{service}-canary" for service in SERVICES)
# Additional replicas of the running version, which are as old as the canaries.
BASELINES = tuple(f"{service}-baseline" for service in SERVICES)
_TIMEOUT_SECONDS = 300
_REJECTED = 3
_NANOSECONDS = re.compile(r"(\.\d{6})\d*Z$")


class StackError(Exception):
    """A command failed, or the stack is not in a state that allows it; the message says what to do."""


class RejectedError(StackError):
    """rollout-service rejects the command (yet); `state` is the state that does not allow it."""

    def __init__(self, reason: str, state: Mapping[str, Any]) -> None:
        super().__init__(reason)
        self.state = state


@dataclass(frozen=True, slots=True)
class Request:
    """A request in NGINX's log: its time, the first upstream's address and status, and the client's status."""

    at: float
    upstream: str
    upstream_status: int
    status: int
    user_agent: str


@dataclass(frozen=True, slots=True)
class Container:
    """A running container: its id, its service in docker-compose.yml, its image, and its configuration's revision."""

    id: str
    service: str
    image: str
    revision: str = ""


class Stack:
    """The stack that the variables of scripts/stack/stack_env.sh describe."""

    def __init__(self, variables: Mapping[str, str]) -> None:
        self._variables = {**os.environ, **variables}
        self.project = self._variables["COMPOSE_PROJECT_NAME"]
        self.configurations = Path(self._variables.get("VAR_DIR", "var")) / "docker" / "revisions"
        # Looked up once: they are asked twice a second.
        self._rollout_service = self._nginx = ""
        address = self._variables.get("BANK_ADDRESS") or "127.0.0.1"
        host = "127.0.0.1" if address == "0.0.0.0" else address  # nosec B104
        scheme = "https" if self._variables.get("NGINX_TLS_CERTIFICATE") else "http"
        self.url = f"{scheme}://{host}:{self._variables['BANK_PORT']}"
        certificates = self._variables.get("TLS_CERTIFICATES")
        self.ca_certificate = f"{certificates}/ca.crt" if scheme == "https" and certificates else ""

    def docker(self, *arguments: str) -> str:
        """Run a `docker` command and return its output."""
        return self.run(["docker", *arguments])

    def compose(self, *arguments: str, **variables: str) -> str:
        """Run `docker compose` on this stack, with additional variables, and return its output."""
        return self.run(["scripts/stack/compose.sh", *arguments], variables=variables)

    def containers(self) -> list[Container]:
        """Return the running containers of the stack."""
        columns = '{{.ID}} {{.Label "com.docker.compose.service"}} {{.Image}} {{.Label "banking.configuration"}}'
        label = f"--filter=label=com.docker.compose.project={self.project}"
        return [Container(*line.split(" ")) for line in self.docker("ps", label, "--format", columns).splitlines()]

    def _stable(self) -> list[Container]:
        return [container for container in self.containers() if container.service in SERVICES]

    def container(self, service: str) -> str:
        """Return the id of a running container of a service. Raises StackError if there is none."""
        container_id = next((container.id for container in self.containers() if container.service == service), None)
        if container_id is None:
            raise StackError(f"{service} is not running on Docker Compose; start the stack with: make up")
        return container_id

    def images(self) -> dict[str, str]:
        """Return the image that stable runs, by service. Raises StackError without a running stack."""
        images = {container.service: container.image for container in self._stable()}
        if images.keys() != set(SERVICES):
            raise StackError("no stack is running on Docker Compose; start it with: make up")
        return images

    def revisions(self) -> dict[str, str]:
        """Return the revision of the configuration that stable runs, by service; replicas may have none."""
        return {container.service: container.revision for container in self._stable() if container.revision}

    def replicas(self) -> dict[str, int]:
        """Return the number of running containers by service, canaries and baselines included."""
        running = Counter(container.service for container in self.containers())
        return {service: running[service] for service in (*SERVICES, *CANARIES, *BASELINES)}

    def canary_addresses(self) -> set[str]:
        """Return address:port of the running canaries, as NGINX knows them."""
        containers = [container.id for container in self.containers() if container.service in CANARIES]
        template = f'{{{{(index .NetworkSettings.Networks "{self.project}_backend").IPAddress}}}}'
        output = self.docker("inspect", "--format", template, *containers) if containers else ""
        return {f"{address}:8000" for address in output.split()}

    def rollout(self, *arguments: str, stdin: str = "") -> dict[str, Any]:
        """Run a command of rollout-service's command line and return the state. Raises RejectedError."""
        if not self._rollout_service:
            self._rollout_service = self.container("rollout-service")
        command = ["docker", "exec", "--interactive", self._rollout_service, "python", "-m", "app.cli", *arguments]
        state: dict[str, Any] = json.loads(self.run(command, stdin=stdin, rejected=_REJECTED))
        return state

    def abort(self, rollout: str, reason: str) -> dict[str, Any]:
        """Roll back a rollout unless it has ended or another one is current; return the state."""
        state = self.rollout("status")
        if state["id"] != rollout or state["phase"] in ("idle", "done"):
            return state
        try:
            return self.rollout("abort", rollout, reason)
        except RejectedError as error:
            # The rollback has ended meanwhile.
            return dict(error.state)

    def revision(self) -> str:
        """Return the name of the configuration that NGINX serves."""
        script = "wget -q -O - http://127.0.0.1:8081/revision"
        return self.docker("exec", self.container("nginx"), "sh", "-c", script).strip()

    def requests(self, since: float) -> list[Request]:
        """Return the requests in NGINX's log since a Unix time."""
        if not self._nginx:
            self._nginx = self.container("nginx")
        log = self.docker("logs", "--timestamps", f"--since={since:.6f}", self._nginx)
        return [request for line in log.splitlines() if (request := _parse(line))]

    def run(
        self, command: list[str], *, variables: Mapping[str, str] | None = None, stdin: str = "", rejected: int = -1
    ) -> str:
        """Run a command and return its output. Raises StackError, and RejectedError for the exit code `rejected`."""
        try:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**self._variables, **(variables or {})},
                input=stdin,
                capture_output=True,
                text=True,
                timeout=_TIMEOUT_SECONDS,
                check=False,
                # Ctrl-C ends this program, which then cleans up; it must not end the commands that do so.
                start_new_session=True,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise StackError(f"{command[0]}: {error}") from error
        if done.returncode == rejected:
            raise RejectedError(done.stderr.strip().removeprefix("rejected: "), json.loads(done.stdout))
        if done.returncode:
            raise StackError(f"{' '.join(command[:4])} …: {(done.stderr or done.stdout).strip()[-600:]}")
        return done.stdout


def _parse(line: str) -> Request | None:
    """Return the request of a line of NGINX's log; None if it is none, or reached no upstream."""
    moment, _, text = line.partition(" ")
    if not text.startswith("{"):
        return None
    entry = json.loads(text)
    # `a, b : c` are the tries within and across pools.
    first = re.match(r"[^ ,]+", entry["upstream"])
    status = re.match(r"\d{3}", entry["upstream_status"])
    if first is None:
        return None
    at = datetime.fromisoformat(_NANOSECONDS.sub(r"\1+00:00", moment)).timestamp()
    return Request(at, first[0], int(status[0]) if status else 0, entry["status"], entry["user_agent"])
