"""The composed stack as somebody sees it who should not be in: ports, networks, paths, and where secrets show."""

import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import pytest
from harness.composed_stack import ComposedBank
from drills.autoscaling.autoscale_webhooks import send
from harness.client import usd

# Containers stay while they are looked at one by one.
steady = pytest.mark.usefixtures("autoscaler_rests")

# Public by nature: keys that everybody may know, and addresses that are the sink's unless somebody gives others.
PUBLIC = ("jwks",)
SERVICE_IMAGES = ("account-service", "transaction-service", "autoscale-service", "rollout-service")
_CHUNK = 4 * 1024 * 1024


def all_containers(bank: ComposedBank) -> list[str]:
    """Return every container of the stack, those that did their work as well."""
    label = f"label=com.docker.compose.project={bank.project}"
    return bank.docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split()


@pytest.fixture(scope="module")
def secrets(bank: ComposedBank) -> dict[str, bytes]:
    """Every secret of the stack by name, in the smallest part that opens something."""
    found = {
        path.name: path.read_text(encoding="utf-8").strip()
        for path in bank.secrets.iterdir()
        if path.name not in PUBLIC
    }
    # Addresses and NATS' list of users are made of passwords, which are looked for by themselves; a stack without TLS
    # has files that say so in place of certificates and keys.
    for name in [name for name in found if name.endswith(("_url", "authorization")) or found[name] == "TLS is off"]:
        del found[name]
    pem = bank.lab.secrets.key.read_text(encoding="utf-8").splitlines()
    found["lab key"] = pem[1]
    assert len(found) >= 9 and all(len(value) >= 32 for value in found.values()), found.keys()
    found["slack_webhook_url"] = "receiver:8000/slack"
    return {name: value.encode() for name, value in found.items()}


def shown(secrets: dict[str, bytes], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """Return which secret shows where."""
    return [f"{name} in {place}" for place, text in places for name, value in secrets.items() if value in text]


def used(bank: ComposedBank) -> None:
    """Do what brings secrets near the logs: requests that succeed, fail and carry what they should not."""
    account = bank.open_account(100)
    bank.post(f"/accounts/{account}/withdrawals", usd(1, reference="rent"))
    token = bank.secrets.joinpath("service_token").read_text(encoding="utf-8")
    for headers in ({"Authorization": f"Bearer {token}"}, {"X-Service-Token": token}, {"Cookie": f"token={token}"}):
        bank.client.get(f"/api/v1/accounts?token={token}", headers=headers)
        bank.client.get("/internal/events", headers=headers)


# The first one, before other tests bring load and before the autoscaler rests.
def test_invalid_webhooks_are_rejected_without_effect(bank: ComposedBank) -> None:
    rows, wrong = send(bank)
    print("\n".join(rows))
    assert wrong == []


@steady
def test_secrets_are_not_visible_through_docker(bank: ComposedBank, secrets: dict[str, bytes]) -> None:
    used(bank)
    containers = all_containers(bank)

    def places() -> Iterator[tuple[str, bytes]]:
        for container in containers:
            name = bank.docker("inspect", "--format", "{{.Name}}", container).strip()
            yield f"inspect of {name}", bank.docker("inspect", container).encode()
            yield f"logs of {name}", bank.logs(container).encode()
        yield "the resolved compose.yml", bank.compose("config").encode()

    found = list(places())
    assert len(found) == 2 * len(containers) + 1 and len(containers) > 15
    assert shown(secrets, found) == []
    # It would be seen: what does show is found the same way.
    assert shown({"project": bank.project.encode()}, found)


@steady
def test_secrets_are_in_no_command_line_and_no_environment(bank: ComposedBank, secrets: dict[str, bytes]) -> None:
    pids = [
        int(line.split()[1])
        for container in all_containers(bank)
        if bank.inspect("{{.State.Running}}", container) == ["true"]
        for line in bank.docker("top", container, "-eo", "user,pid").splitlines()[1:]
    ]
    assert len(pids) > 20

    def places() -> Iterator[tuple[str, bytes]]:
        for pid in pids:
            for part in ("cmdline", "environ"):
                try:
                    yield f"{part} of {pid}", Path(f"/proc/{pid}/{part}").read_bytes()
                except ProcessLookupError:
                    continue  # a health check that is over
                except FileNotFoundError:
                    continue

    found = list(places())
    assert shown(secrets, found) == []
    assert any(b"SERVICE_TOKEN_FILE=/run/secrets/service_token" in text for _, text in found), "environments are seen"


def test_secrets_are_in_no_image(bank: ComposedBank, secrets: dict[str, bytes]) -> None:
    images = [bank.inspect("{{.Image}}", bank.containers(service)[0])[0] for service in SERVICE_IMAGES]
    history = [(f"history of {image}", bank.docker("history", "--no-trunc", image).encode()) for image in images] + [
        (f"inspect of {image}", bank.docker("image", "inspect", image).encode()) for image in images
    ]
    assert shown(secrets, history) == []
    assert not re.search(rb"(?i)(password|secret|token)=[^ $]{8,}", b"".join(text for _, text in history))
    assert shown(secrets, _saved(images)) == []
    assert shown({"program": b"def check_service_token("}, _saved(images)), "layers are seen"


def _saved(images: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield all layers of images, in parts that overlap."""
    with subprocess.Popen(["docker", "save", *images], stdout=subprocess.PIPE) as save:
        assert save.stdout is not None
        tail = b""
        while chunk := save.stdout.read(_CHUNK):
            yield "a layer", tail + chunk
            tail = chunk[-256:]
    assert save.returncode == 0


@steady
def test_only_nginx_publishes_a_port(bank: ComposedBank) -> None:
    published = {}
    for container in all_containers(bank):
        (name,) = bank.inspect('{{index .Config.Labels "com.docker.compose.service"}}', container)
        ports = json.loads(bank.inspect("{{json .HostConfig.PortBindings}}", container)[0]) or {}
        published.update({(name, port): binding for port, binding in ports.items()})
        (mode,) = bank.inspect(
            "{{.HostConfig.NetworkMode}} {{.HostConfig.Privileged}} {{.HostConfig.PidMode}}", container
        )
        assert not re.search(r"\bhost\b|true", mode), (name, mode)
    published.pop(("grafana", "3000/tcp"), None)
    address = httpx.URL(bank.api_url)
    assert published == {("nginx", "8080/tcp"): [{"HostIp": address.host, "HostPort": str(address.port)}]}


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/health/live", "/health/ready", "/internal/events?after=0", "/internal/balances", "/status"),
        *("/sink", "/revision", "/webhook/autoscale", "/pause", "//metrics", "/./metrics", "/%6detrics", "/metrics/"),
        *(
            "/api/v1/../../metrics",
            "/api/v1/accounts/..%2f..%2f..%2fmetrics",
            "/api/v1/accounts/..;/..;/internal/events",
        ),
        *("/docs/account-service/../../internal/events", "/docs/account-service/assets/..%2f..%2f..%2fmetrics"),
    ],
)
def test_internal_paths_are_not_routed(bank: ComposedBank, path: str) -> None:
    own = {"Authorization": f"Bearer {bank.lab.service_token}"}
    for method in ("GET", "POST", "HEAD"):
        request = bank.client.build_request(method, "/", headers=own)
        # As it is: the client would tidy the path.
        request.url = request.url.copy_with(raw_path=path.encode())
        response = bank.client.send(request)
        assert response.status_code in (404, 405), (method, path, response.status_code)
        assert "specversion" not in response.text and "# HELP" not in response.text


CONNECT = (
    "import socket, sys\n"
    "for place in sys.argv[1:]:\n"
    "    host, port = place.split(':')\n"
    "    try: socket.create_connection((host, int(port)), 30); print('open', place)\n"
    "    except OSError: print('closed', place)\n"
)


@pytest.mark.parametrize(
    ("service", "reaches", "does_not"),
    [
        ("account-service", ["postgres:5432", "nats:4222"], ["docker-proxy:2375", "rollout-proxy:2375"]),
        (
            "autoscale-service",
            ["docker-proxy:2375"],
            ["postgres:5432", "nats:4222", "rollout-proxy:2375"],
        ),
        ("rollout-service", ["rollout-proxy:2375"], ["postgres:5432", "nats:4222", "docker-proxy:2375"]),
    ],
)
def test_a_service_reaches_only_its_dependencies(
    bank: ComposedBank, service: str, reaches: list[str], does_not: list[str]
) -> None:
    lines = bank.inside(service, "python", "-c", CONNECT, *reaches, *does_not).splitlines()
    assert lines == [f"open {place}" for place in reaches] + [f"closed {place}" for place in does_not]


@steady
def test_only_services_with_external_destinations_have_egress(bank: ComposedBank) -> None:
    leads_out = set()
    for container in all_containers(bank):
        (name,) = bank.inspect('{{index .Config.Labels "com.docker.compose.service"}}', container)
        networks = json.loads(bank.inspect("{{json .NetworkSettings.Networks}}", container)[0])
        if "false" in bank.docker("network", "inspect", "--format", "{{.Internal}}", *networks).split():
            leads_out.add(name)
    assert leads_out - {"grafana"} == {"nginx", "alertmanager", "rollout-service"}


def test_nginx_reaches_only_the_services(bank: ComposedBank) -> None:
    script = 'timeout 30 bash -c "exec 3<>/dev/tcp/$1/$2" 2>/dev/null && echo open || echo closed'

    def reached(host: str, port: str) -> str:
        return bank.inside("nginx", "sh", "-c", script, "sh", host, port).strip()

    closed = {"postgres": "5432", "nats": "4222", "docker-proxy": "2375", "rollout-proxy": "2375", "prometheus": "9090"}
    assert {host: reached(host, port) for host, port in closed.items()} == dict.fromkeys(closed, "closed")
    assert [reached("account-service", "8000"), reached("transaction-service", "8000")] == ["open", "open"]
