"""A rollout on the composed stack, driven by hand: what the guard does with NGINX and canaries, and that it lets go."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from harness.composed_stack import ComposedBank
from harness.client import eventually, usd

from shared.testing.local_stack import ACCOUNT

SERVICES = ("account-service", "transaction-service")
CANARIES = tuple(f"{service}-canary" for service in SERVICES)
# A kept-alive client is served by a worker from before a reload for so long.
RELOAD_SECONDS = 8
LEASE_SECONDS = 30


def operate(bank: ComposedBank, *arguments: str, given: str = "") -> dict[str, Any]:
    """Say something to the guard, and return the state; what it refuses changes nothing."""
    script = 'given=$1; shift; printf %s "$given" | python -m app.cli "$@" || [ $? = 3 ]'
    printed = bank.compose("exec", "-T", "rollout-service", "sh", "-c", script, "sh", given, *arguments)
    # What it refuses is said beside it, before or after.
    found: dict[str, Any] = json.JSONDecoder().raw_decode(printed, printed.index("{\n"))[0]
    return found


def begun(bank: ComposedBank, **changes: Any) -> str:
    """Begin a rollout of the version that runs, start its canaries and return its id once clients may meet them."""
    images = {one: bank.inspect("{{.Config.Image}}", bank.containers(one)[0])[0] for one in SERVICES}
    request = {"driver": "a test", "version": "same", "images": images, "previous": images}
    asked = json.dumps({**request, "bake_seconds": 5, "budget_seconds": 120, "synthetic": True, **changes})
    rollout: str = operate(bank, "begin", "-", given=asked)["id"]
    # Without a build there are no images under the names that .env has for canaries.
    names = {f"{one.upper().replace('-', '_')}_CANARY_IMAGE": image for one, image in images.items()}
    bank.compose("--profile", "canary", "up", "--detach", "--no-deps", *CANARIES, **names)
    eventually(lambda: operate(bank, "provisioned", rollout)["phase"] == "canary", 90)
    eventually(lambda: operate(bank, "renew", rollout)["weight"] > 0, 30)
    return rollout


def track(bank: ComposedBank, client: str, canary: str = "") -> str:
    headers = {**bank.headers("alice"), "X-Client-ID": client} | ({"X-Canary": canary} if canary else {})
    answer = bank.client.get("/api/v1/accounts", headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-app-track"]


@pytest.fixture(autouse=True)
def nothing_left(bank: ComposedBank) -> Iterator[None]:
    """Afterwards stable has everything again."""
    yield
    operate(bank, "abort", "the end")
    eventually(lambda: operate(bank, "status")["phase"] == "idle", 90)
    assert bank.containers("account-service-canary") == []
    assert {track(bank, str(n)) for n in range(20)} == {"stable"}


def test_a_canary_gets_its_clients_its_events_and_a_verdict_and_goes_when_it_is_told_to(bank: ComposedBank) -> None:
    rollout = begun(bank)
    time.sleep(RELOAD_SECONDS)
    assert {track(bank, "tester", "always") for _ in range(5)} == {"canary"}
    assert {track(bank, "tester", "never") for _ in range(5)} == {"stable"}
    operate(bank, "renew", rollout)
    sides = {client: track(bank, client) for client in map(str, range(300))}
    assert sides == {client: track(bank, client) for client in sides}, "a client stays on its side"
    assert 10 <= sum(side == "canary" for side in sides.values()) <= 55, "about a tenth"

    source, target = bank.open(1_000), bank.open()
    bank.post("/transfers", usd(5, from_account=source, to_account=target))
    rehearsed = 'sum(bank_events_consumed_total{track="canary", outcome="rehearsed"}) > 0'

    def judged() -> bool:
        state = operate(bank, "renew", rollout)
        figures = state["verdict"].get("figures", {})
        return all(figures.get(one, {}).get("canary_requests") for one in SERVICES)

    eventually(judged, 60)
    eventually(lambda: bank.prometheus.query(rehearsed), 30)
    assert bank.reconciled()["mismatches"] == 0
    bank.run_module(ACCOUNT, "app.verify")

    asked = time.monotonic()
    assert operate(bank, "abort", "a person")["phase"] == "rolling-back"
    eventually(lambda: operate(bank, "status")["weight"] == 0, 20)
    print(f"no share any more after {time.monotonic() - asked:.1f} s")


def test_without_a_driver_everything_is_taken_back(bank: ComposedBank) -> None:
    rollout = begun(bank)
    left = time.monotonic()
    eventually(lambda: operate(bank, "status")["phase"] == "idle", LEASE_SECONDS + 30)
    print(f"stable alone {time.monotonic() - left:.0f} s after the driver was last heard of")
    state = operate(bank, "status")
    assert (state["id"], state["outcome"]) == (rollout, "rolled-back") and "a test" in state["reason"]


def test_the_proxy_lets_the_guard_do_nothing_else(bank: ComposedBank) -> None:
    postgres, stable = bank.containers("postgres")[0], bank.containers("account-service")[0]
    script = (
        "import httpx, json, sys; client = httpx.Client(base_url='http://rollout-proxy:2375');"
        "print(json.dumps([client.request(*call).status_code for call in json.loads(sys.argv[1])]))"
    )
    calls = [
        ["POST", f"/containers/{postgres}/stop"],
        ["GET", f"/containers/{postgres}/json"],
        ["POST", f"/containers/{stable}/kill?signal=SIGKILL"],
        ["POST", f"/containers/{stable}/exec"],
        ["POST", f"/containers/{bank.containers('nginx')[0]}/kill?signal=SIGHUP"],
        ["POST", "/edge/..%2fselected%2fnginx"],
        # Nobody would serve: its replicas do not run.
        ["POST", "/edge/previous"],
        ["POST", "/containers/create"],
        ["GET", "/images/json"],
    ]
    answer = bank.compose("exec", "-T", "rollout-service", "python", "-c", script, json.dumps(calls))
    assert json.loads(answer) == [404, 404, 403, 403, 403, 403, 403, 403, 403]


def test_the_guard_cannot_touch_the_edge_but_by_the_name_of_what_is_prepared(bank: ComposedBank) -> None:
    # It has no folder of NGINX's, and NGINX serves what was selected after a restart as well.
    assert bank.inside("rollout-service", "sh", "-c", "ls /etc/nginx 2>&1 || true").startswith("ls: ")
    bank.compose("stop", "rollout-service")
    try:
        script = "import httpx; httpx.post('http://127.0.0.1:2375/edge/canary-10').raise_for_status()"
        bank.inside("rollout-proxy", "python", "-c", script)
        eventually(lambda: revision(bank) == "canary-10", 20)
        bank.compose("restart", "nginx")
        eventually(lambda: revision(bank) == "canary-10", 60)
    finally:
        bank.compose("start", "rollout-service")
    # The state says otherwise, and whoever starts again brings the world to it.
    eventually(lambda: revision(bank) == "stable", 60)


def revision(bank: ComposedBank) -> str:
    """Return the name of the configuration that NGINX serves by; nothing while it does not answer."""
    script = "wget -q -O - http://127.0.0.1:8081/revision || true"
    return bank.inside("nginx", "sh", "-c", script).strip()
