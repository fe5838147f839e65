"""The bank on Docker, started with scripts/stack/up.sh, with a dedicated project name, port and directory."""

import json
import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.promql import Prometheus
from harness.client import Bank, output_of

from shared.messaging.positions import Positions
from shared.testing import lab_keys
from shared.testing.paths import ROOT
from shared.testing.ports import free_port

_START_SECONDS = 1200
_COMMAND_SECONDS = 300
# The consumer of the events of each database.
CONSUMERS = {"account": "transaction", "transaction": "account"}
_PSQL = (
    "PGPASSWORD=$(cat /run/secrets/postgres_password) PGAPPNAME=$3"
    ' psql -h 127.0.0.1 -U postgres -qAt -v ON_ERROR_STOP=1 -d "$1" -c "$2"'
)


def now() -> str:
    """Return the current time in the format of `docker logs --since`."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class ComposedBank(Bank):
    """A dedicated bank on Docker Compose that tests may scale, kill and restart; `variables` override .env."""

    def __init__(self, folder: Path, **variables: str) -> None:
        folder.joinpath("slack").write_text("http://receiver:8000/slack", encoding="utf-8")
        folder.joinpath("dead-mans-switch").write_text("http://receiver:8000/dead-mans-switch", encoding="utf-8")
        self._environment = {
            **os.environ,
            "COMPOSE_FILE": "docker-compose.yml:integration-tests/harness/receiver/compose.yml",
            "SLACK_WEBHOOK_URL_FILE": str(folder / "slack"),
            "DEAD_MANS_SWITCH_URL_FILE": str(folder / "dead-mans-switch"),
            "COMPOSE_PROJECT_NAME": f"bank-test-{uuid.uuid4().hex[:8]}",
            "BANK_PORT": str(free_port()),
            "VAR_DIR": str(folder / "var"),
            **variables,
        }
        self.project = self._environment["COMPOSE_PROJECT_NAME"]
        try:
            # Not captured, so that its progress is visible.
            subprocess.run(["scripts/stack/up.sh"], cwd=ROOT, env=self._environment, check=True, timeout=_START_SECONDS)
        except BaseException:
            self._down()
            raise
        var = Path(self._environment["VAR_DIR"])
        super().__init__(f"http://127.0.0.1:{self._environment['BANK_PORT']}", lab_keys.ensure(var / "secrets"))
        self.secrets = var / "docker" / "secrets"

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for commands on this stack."""
        return {**self._environment, "BASE_URL": self.api_url}

    @cached_property
    def prometheus(self) -> Prometheus:
        """A client of the stack's Prometheus, through its container's address."""
        address = self.docker("inspect", "--format", self._address_in("monitoring"), *self.containers("prometheus"))
        return Prometheus(f"http://{address.strip()}:9090")

    def compose(self, *arguments: str, **environment: str) -> str:
        """Run `docker compose` on this stack with additional variables and return its output."""
        return self._run(["scripts/stack/compose.sh", *arguments], _COMMAND_SECONDS, **environment)

    def attempt(self, *arguments: str) -> tuple[int, str]:
        """Run `docker compose` on this stack; return its exit code, and stderr followed by stdout."""
        done = subprocess.run(
            ["scripts/stack/compose.sh", *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        return done.returncode, done.stderr + done.stdout

    def script(self, path: str, **environment: str) -> str:
        """Run one of the project's scripts on this stack and return its output."""
        return self._run([path], 600, **environment)

    def docker(self, *arguments: str) -> str:
        """Run a `docker` command and return its output."""
        return self._run(["docker", *arguments], _COMMAND_SECONDS)

    def logs(self, container: str, *options: str) -> str:
        """Return the logs of a container, stdout and stderr."""
        command = ["docker", "logs", *options, container]
        return output_of(command, self._environment, _COMMAND_SECONDS, with_errors=True)

    def inside(self, service: str, *command: str) -> str:
        """Run a command in a container of a service and return its output."""
        return self.compose("exec", "-T", service, *command)

    def run_module(self, service: str, module: str) -> str:
        return self.inside(service, "python", "-m", module)

    def autoscale_cli(self, *arguments: str) -> str:
        """Run a command of the autoscaler's CLI and return its output."""
        return self.inside("autoscale-service", "python", "-m", "app.cli", *arguments)

    def containers(self, service: str) -> list[str]:
        """Return the ids of the running containers of a service."""
        return self.compose("ps", "--quiet", service).split()

    def sql(self, database: str, query: str) -> list[str]:
        """Return the rows of a query on a service's database, columns separated by |."""
        return self.inside("postgres", "sh", "-c", _PSQL, "sh", database, query, "").splitlines()

    def sql_in_background(self, database: str, query: str, name: str) -> None:
        """Start a long query in the background, in a session with this application name."""
        self.compose("exec", "--detach", "postgres", "sh", "-c", _PSQL, "sh", database, query, name)

    def events(self, transaction_id: str) -> list[dict[str, Any]]:
        """Return the events of a transaction that account-service has published."""
        rows = self.sql("account", "SELECT convert_from(events, 'UTF8') FROM outbox WHERE position IS NOT NULL")
        found = [event for row in rows for event in json.loads(row)]
        return [event for event in found if event["data"].get("transaction_id") == transaction_id]

    def event_stream(self) -> dict[str, Any]:
        """Return the state of NATS' stream of events: messages, bytes, first_seq and more."""
        page = self.inside("nats", "wget", "-q", "-O", "-", "http://127.0.0.1:8222/jsz?streams=true")
        streams = json.loads(page)["account_details"][0]["stream_detail"]
        state: dict[str, Any] = next(stream["state"] for stream in streams if stream["name"] == "BANK")
        return state

    def consumed(self, database: str) -> Positions:
        """Return the consumed positions in a service's database, i.e. of the other service's events."""
        rows = self.sql(database, "SELECT ranges FROM consumed_positions")
        return Positions.loads(rows[0]) if rows else Positions()

    def unconsumed_events(self) -> int:
        """Return the number of events of both services that their consumer has not processed."""
        # Consumed positions first, so that the result is never too low.
        consumed = sum(len(self.consumed(name)) for name in CONSUMERS.values())
        return sum(int(self.sql(name, "SELECT coalesce(sum(size), 0) FROM outbox")[0]) for name in CONSUMERS) - consumed

    def upstreams_since(self, since: str) -> set[str]:
        """Return the upstream addresses in NGINX's access log since a time (RFC 3339)."""
        return set(re.findall(r"\d+\.\d+\.\d+\.\d+:8000", self.logs_since("nginx", since)))

    def logs_since(self, service: str, since: str) -> str:
        """Return the logs of the first container of a service since a time (RFC 3339), with timestamps."""
        return self.logs(self.containers(service)[0], "--timestamps", "--since", since)

    def inspect(self, template: str, *containers: str) -> list[str]:
        """Return a line of `docker inspect --format` for each container."""
        return self.docker("inspect", "--format", template, *containers).splitlines()

    def messages(self, path: str, since: float = 0) -> list[dict[str, Any]]:
        """Return the requests to the receiver on a path since a time: at, authorization, body."""
        lines = self.compose("logs", "--no-log-prefix", "--no-color", "receiver").splitlines()
        found = [json.loads(line[line.index("{") :]) for line in lines if "{" in line]
        return [message for message in found if message["path"] == path and message["at"] >= since]

    def _address_in(self, network: str) -> str:
        return f'{{{{(index .NetworkSettings.Networks "{self.project}_{network}").IPAddress}}}}'

    def addresses(self, service: str) -> set[str]:
        """Return address:port of every running replica on the backend network."""
        found = self.docker("inspect", "--format", self._address_in("backend"), *self.containers(service))
        return {f"{address}:8000" for address in found.split()}

    def close(self) -> None:
        super().close()
        if "prometheus" in self.__dict__:
            self.prometheus.close()
        self._down()

    def _down(self) -> None:
        self._run(["scripts/stack/down.sh"], _COMMAND_SECONDS, VOLUMES="1")

    def _run(self, command: list[str], seconds: int, **environment: str) -> str:
        return output_of(command, {**self._environment, **environment}, seconds)


class SwarmBank(ComposedBank):
    """A dedicated bank as a stack on a one-node Swarm."""

    def __init__(self, folder: Path, **variables: str) -> None:
        super().__init__(folder, SWARM="1", **variables)

    def inside(self, service: str, *command: str) -> str:
        return self._run(["docker", "exec", self.containers(service)[0], *command], _COMMAND_SECONDS)

    def containers(self, service: str) -> list[str]:
        label = f"label=com.docker.swarm.service.name={self.project}_{service}"
        return self.docker("ps", "--quiet", "--no-trunc", "--filter", label).split()


@contextmanager
def one_node_swarm() -> Iterator[None]:
    """Initialize a Swarm on this engine while the block runs; an existing Swarm is used and kept."""
    info = ["docker", "info", "--format", "{{.Swarm.LocalNodeState}}"]
    if subprocess.run(info, capture_output=True, text=True, check=True).stdout.strip() == "active":
        yield
        return
    subprocess.run(["docker", "swarm", "init", "--advertise-addr", "127.0.0.1"], capture_output=True, check=True)
    try:
        yield
    finally:
        subprocess.run(["docker", "swarm", "leave", "--force"], capture_output=True, check=True)
