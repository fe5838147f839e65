"""Replicas that the autoscaler starts are compose's own, and Docker's socket is open for nothing else."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from harness.composed_stack import ComposedBank, now
from harness.client import eventually

SERVICE = "account-service"
OWN_LABELS = {"com.docker.compose.container-number", "com.docker.compose.replace", "banking.autoscale.created"}


def document(bank: ComposedBank, container: str) -> dict[str, Any]:
    """Return what Docker says of a container."""
    found: dict[str, Any] = json.loads(bank.inspect("{{json .}}", container)[0])
    return found


pytestmark = pytest.mark.usefixtures("autoscaler_rests")


def traits(replica: dict[str, Any]) -> list[Any]:
    """Return what replicas of a service have in common; the model names its image by tag, the copy by digest."""
    config = {name: value for name, value in replica["Config"].items() if name not in ("Hostname", "Image", "Labels")}
    labels = {name: value for name, value in replica["Config"]["Labels"].items() if name not in OWN_LABELS}
    return [replica["Image"], config, labels, replica["HostConfig"]]


@pytest.fixture
def three(bank: ComposedBank) -> Iterator[list[str]]:
    """The containers of account-service, the third of them started by the autoscaler; afterwards there are two."""
    before = bank.containers(SERVICE)
    bank.autoscale_cli("scale", SERVICE, "3")
    yield [*before, *(one for one in bank.containers(SERVICE) if one not in before)]
    bank.autoscale_cli("scale", SERVICE, "2")
    assert sorted(bank.containers(SERVICE)) == sorted(before), "the newest goes first"


def test_a_new_replica_equals_those_of_compose_and_compose_keeps_it(bank: ComposedBank, three: list[str]) -> None:
    assert len(three) == 3
    first, second, new = (document(bank, one) for one in three)
    assert new["Name"].endswith(f"-{SERVICE}-3")
    # It is a copy of one of the two, in which compose has put variables, mounts and labels in orders of their own.
    model = next((one for one in (first, second) if traits(one) == traits(new)), None)
    assert model is not None, [traits(one) for one in (first, second, new)]
    networks = [one["NetworkSettings"]["Networks"] for one in (model, new)]
    assert networks[0].keys() == networks[1].keys()
    assert all(SERVICE in one["Aliases"] for one in networks[1].values())

    moment = now()
    address = bank.addresses(SERVICE) - {f"{networks[0][f'{bank.project}_backend']['IPAddress']}:8000"}
    assert len(address) == 2
    eventually(lambda: bank.get("/accounts") and address <= bank.upstreams_since(moment))
    # Without --no-deps, which counts as a change of configuration.
    bank.compose("up", "--detach", "--scale", f"{SERVICE}=3", SERVICE)
    assert sorted(bank.containers(SERVICE)) == sorted(three), "compose has nothing to change"


def status(bank: ComposedBank) -> dict[str, Any]:
    """Return what the autoscaler knows of the service."""
    found: dict[str, Any] = json.loads(bank.autoscale_cli("status"))["services"][SERVICE]
    return found


@pytest.fixture
def next_image(bank: ComposedBank) -> Iterator[str]:
    """The image of the service under another id, as a next version has."""
    (image,) = bank.inspect("{{.Image}}", bank.containers(SERVICE)[0])
    made = bank.docker("create", image).strip()
    name = f"bank/{bank.project}:next"
    bank.docker("commit", "--change", "LABEL next=true", made, name)
    bank.docker("rm", made)
    yield name
    bank.docker("rmi", name)


@pytest.fixture
def rollouts_rest(bank: ComposedBank) -> Iterator[None]:
    """Keep rollout-service from removing what no rollout has started."""
    service = bank.containers("rollout-service")
    bank.docker("stop", *service)
    yield
    bank.docker("start", *service)


@pytest.mark.usefixtures("rollouts_rest")
def test_no_scaling_during_an_update(bank: ComposedBank, next_image: str) -> None:
    before, failures = bank.containers(SERVICE), status(bank)["failures"]
    grow = ("up", "--detach", "--no-deps", "--no-recreate", "--scale", f"{SERVICE}=3", SERVICE)
    bank.compose(*grow, ACCOUNT_SERVICE_IMAGE=next_image)
    (new,) = set(bank.containers(SERVICE)) - set(before)
    try:
        eventually(lambda: status(bank)["reason"] == "updating", 120)
        for count in ("2", "4"):
            with pytest.raises(AssertionError, match="replicas of two versions"):
                bank.autoscale_cli("scale", SERVICE, count)
        assert len(bank.containers(SERVICE)) == 3 and status(bank)["failures"] == failures
    finally:
        bank.docker("rm", "--force", new)
    eventually(lambda: status(bank)["reason"] != "updating", 120)


@pytest.mark.usefixtures("rollouts_rest")
def test_a_canary_is_neither_counted_nor_touched(bank: ComposedBank, next_image: str) -> None:
    canary = f"{SERVICE}-canary"
    start = ("--profile", "canary", "up", "--detach", "--no-deps", canary)
    bank.compose(*start, ACCOUNT_SERVICE_CANARY_IMAGE=next_image, ACCOUNT_SERVICE_CANARY_REPLICAS="1")
    label = f"label=com.docker.compose.service={canary}"
    here = ("ps", "--all", "--quiet", "--filter", label, "--filter", f"label=com.docker.compose.project={bank.project}")
    (there,) = bank.docker(*here).split()
    try:
        bank.autoscale_cli("scale", SERVICE, "3")
        with pytest.raises(AssertionError, match="is not a scalable service"):
            bank.autoscale_cli("scale", canary, "2")
        eventually(lambda: status(bank)["current"] == 3, 120)
        bank.autoscale_cli("scale", SERVICE, "2")
        assert bank.docker(*here).split() == [there]
        assert canary not in json.loads(bank.autoscale_cli("status"))["services"]
    finally:
        bank.docker("rm", "--force", there)


def test_the_socket_proxy_forbids_all_other_calls(bank: ComposedBank) -> None:
    postgres = bank.containers("postgres")[0]
    script = (
        "import httpx, json, sys; client = httpx.Client(base_url='http://docker-proxy:2375', timeout=60);"
        "print(json.dumps([client.request(*call).status_code for call in json.loads(sys.argv[1])]))"
    )
    calls = [["GET", f"/containers/{postgres}/json"], ["POST", f"/containers/{postgres}/stop"]]
    response = bank.compose("exec", "-T", "autoscale-service", "python", "-c", script, json.dumps(calls))
    assert json.loads(response) == [404, 404]
    lines = bank.autoscale_cli("check-proxy").splitlines()
    assert len(lines) > 20 and all(line.startswith(("403", "404")) for line in lines)
