"""A rollout on the composed stack, driven manually: routing, analysis, rollback, and the limits of rollout-service."""

import json
import re
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.composed_stack import ComposedBank, now
from harness.client import eventually, usd
from harness.manual_rollout import SERVICES, renewing, roll_back, rollout_cli, start_rollout

from scripts.faults import release
from scripts.faults.customers import connect, open_accounts
from scripts.faults.rollout import Plan, Rollout, roll_out
from scripts.faults.stack import Stack
from shared.testing.local_stack import ACCOUNT

# After a reload, a kept-alive connection may be served by the previous NGINX worker for this time.
RELOAD_SECONDS = 8
LEASE_SECONDS = 30

pytestmark = pytest.mark.usefixtures("autoscaler_rests")


def track(bank: ComposedBank, client: str, canary: str = "") -> str:
    headers = {**bank.headers("alice"), "X-Client-ID": client} | ({"X-Canary": canary} if canary else {})
    response = bank.client.get("/api/v1/accounts", headers=headers)
    assert response.status_code == 200, response.text
    return response.headers["x-app-track"]


def pools(bank: ComposedBank, clients: list[str]) -> dict[str, str]:
    """Return the pool that NGINX selects for each client: stable also answers for a canary that is late."""
    run, moment = uuid.uuid4().hex, now()
    for client in clients:
        headers = {**bank.headers("alice"), "X-Client-ID": client, "X-Request-ID": f"{run}-{client}"}
        response = bank.client.get("/api/v1/accounts", headers=headers)
        assert response.status_code == 200, response.text

    def logged() -> list[str]:
        lines = [line.partition(" ")[2] for line in bank.logs_since("nginx", moment).splitlines() if run in line]
        return lines if len(lines) == len(clients) else []

    entries = [json.loads(line) for line in eventually(logged)]
    return {
        entry["request_id"].rpartition("-")[2]: "canary" if entry["canary_status"] else "stable" for entry in entries
    }


@pytest.fixture(autouse=True)
def rolled_back(bank: ComposedBank) -> Iterator[None]:
    """Roll back after each test, until all clients are routed to stable."""
    yield
    roll_back(bank, "the end")
    assert bank.containers("account-service-canary") == []
    assert {track(bank, str(n)) for n in range(20)} == {"stable"}


def test_a_canary_serves_its_clients_is_analyzed_and_is_rolled_back_on_abort(bank: ComposedBank) -> None:
    rollout = start_rollout(bank)
    with renewing(bank, rollout):
        time.sleep(RELOAD_SECONDS)
        eventually(lambda: {track(bank, "tester", "always") for _ in range(5)} == {"canary"})
        assert {track(bank, "tester", "never") for _ in range(5)} == {"stable"}
        selected = pools(bank, list(map(str, range(300))))
        again = pools(bank, list(selected))
        state = rollout_cli(bank, "status")
        assert state["phase"] == "canary", f"the canary was withdrawn meanwhile: {state['reason']}, {state['verdict']}"
        assert selected == again, "a client stays on its track"
        assert 10 <= list(selected.values()).count("canary") <= 55, "about a tenth"

        source, target = bank.open_account(1_000), bank.open_account()
        bank.post("/transfers", usd(5, from_account=source, to_account=target))
        rehearsed = 'sum(bank_events_consumed_total{track="canary", outcome="dry_run"}) > 0'

        def analyzed() -> bool:
            state = rollout_cli(bank, "renew", rollout)
            figures = state["verdict"].get("figures", {})
            return all(figures.get(one, {}).get("canary_requests") for one in SERVICES)

        eventually(analyzed, 180)
        probed = eventually(lambda: rollout_cli(bank, "renew", rollout)["verdict"].get("contract"), 180)
        assert probed.endswith(" responses as expected"), probed
        eventually(lambda: bank.prometheus.query(rehearsed), 180)
        assert bank.reconciliation()["mismatches"] == 0
        bank.run_module(ACCOUNT, "app.verify")

    aborted = time.monotonic()
    assert rollout_cli(bank, "abort", "current", "a person")["phase"] == "rolling-back"
    eventually(lambda: rollout_cli(bank, "status")["weight"] == 0)
    print(f"weight 0 after {time.monotonic() - aborted:.1f} s")


def test_a_rollout_without_a_driver_is_rolled_back(bank: ComposedBank) -> None:
    rollout = start_rollout(bank)
    left = time.monotonic()
    eventually(lambda: rollout_cli(bank, "status")["phase"] == "idle", LEASE_SECONDS + 120)
    print(f"stable alone {time.monotonic() - left:.0f} s after the last renewal of the lease")
    state = rollout_cli(bank, "status")
    assert (state["id"], state["outcome"]) == (rollout, "rolled-back") and "a test" in state["reason"]


def test_a_faulty_release_is_rolled_back_and_leaves_nothing(bank: ComposedBank) -> None:
    stack, secrets = Stack(bank.environment), Path(bank.environment["VAR_DIR"]) / "secrets"
    # As `make break-release`, with fewer customers; synthetic requests reach the canary in any case.
    plan = Plan("a test", step_timeout_seconds=600, synthetic=True)
    with connect(stack.url, stack.ca_certificate) as client:
        customers = open_accounts(client, secrets, 30)
        try:
            rollout = Rollout(stack, release.build(stack, "errors"), plan, print)
            result = roll_out(rollout, customers, 30)
        finally:
            left = release.remove(stack)
    assert re.search("errors|retries|contract", result.reason), result
    assert (left, result.leftovers, result.failed, result.wrong) == ([], [], [], [])


def test_the_docker_proxy_forbids_rollout_service_everything_else(bank: ComposedBank) -> None:
    postgres, stable = bank.containers("postgres")[0], bank.containers("account-service")[0]
    script = (
        "import httpx, json, sys; client = httpx.Client(base_url='http://rollout-proxy:2375', timeout=60);"
        "print(json.dumps([client.request(*call).status_code for call in json.loads(sys.argv[1])]))"
    )
    calls = [
        ["POST", f"/containers/{postgres}/stop"],
        ["GET", f"/containers/{postgres}/json"],
        ["POST", f"/containers/{stable}/kill?signal=SIGKILL"],
        ["POST", f"/containers/{stable}/exec"],
        ["POST", f"/containers/{bank.containers('nginx')[0]}/kill?signal=SIGHUP"],
        ["POST", "/edge/..%2fselected%2fnginx"],
        # Its replicas do not run.
        ["POST", "/edge/previous"],
        ["POST", "/containers/create"],
        ["GET", "/images/json"],
    ]
    response = bank.compose("exec", "-T", "rollout-service", "python", "-c", script, json.dumps(calls))
    assert json.loads(response) == [404, 404, 403, 403, 403, 403, 403, 403, 403]


def test_nginx_keeps_the_selected_configuration_across_a_restart(bank: ComposedBank) -> None:
    # rollout-service has no access to NGINX's files; it only selects a prepared configuration by name.
    assert bank.inside("rollout-service", "sh", "-c", "ls /etc/nginx 2>&1 || true").startswith("ls: ")
    bank.compose("stop", "rollout-service")
    try:
        script = "import httpx; httpx.post('http://127.0.0.1:2375/edge/canary-10', timeout=60).raise_for_status()"
        bank.inside("rollout-proxy", "python", "-c", script)
        eventually(lambda: revision(bank) == "canary-10")
        bank.compose("restart", "nginx")
        eventually(lambda: revision(bank) == "canary-10")
    finally:
        bank.compose("start", "rollout-service")
    # The state differs, and a restarted rollout-service restores it.
    eventually(lambda: revision(bank) == "stable", 120)


def revision(bank: ComposedBank) -> str:
    """Return the name of NGINX's active configuration; empty while it does not respond."""
    script = "wget -q -O - http://127.0.0.1:8081/revision || true"
    return bank.inside("nginx", "sh", "-c", script).strip()
