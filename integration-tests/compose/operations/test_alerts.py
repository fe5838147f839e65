"""Alerts on the composed stack: the contract of every expression, who is told, and one real fault from end to end.

The other faults are in the drill: make drills DRILL=alerts.
"""

import re
from collections import Counter
from typing import Any

import httpx
import pytest
import yaml
from harness.composed_stack import ComposedBank
from drills.monitoring.alerts import REPLICA, run, format_result
from harness.promql import Count, table
from harness.client import eventually, usd
from harness.load import retrying_transfers
from harness.manual_rollout import SERVICES

from shared.testing.paths import ROOT

RULES = ROOT / "monitoring" / "rules"
RUNBOOKS = ROOT / "docs" / "runbooks"
# Selectors that find nothing on a stack that is well, and why.
ABSENT = {
    'rollout_state{state!~"idle|done"}': "only there during a rollout",
    "rollout:in_progress:max": "only there during a rollout",
    'probe_ssl_earliest_cert_expiry{job="api"}': "only there with TLS",
    "certificate:expiry_seconds:min": "only there with TLS",
    "slo:availability_errors:sustained": "only there where at least five requests have failed",
    "job:targets_down:count": "only there where a target is down",
}


def expressions() -> list[tuple[str, str]]:
    """Return where and what every expression of the rules is."""
    files = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in sorted(RULES.glob("*.yml"))}
    return [
        (f"{name}/{rule.get('record') or rule['alert']}", rule["expr"])
        for name, content in files.items()
        for group in content["groups"]
        for rule in group["rules"]
    ]


def counted(bank: ComposedBank) -> list[Count]:
    """Count the series of every expression, with some reading on the way."""
    for subject in ("alice", "bob"):
        bank.client.get("/api/v1/transactions", headers=bank.headers(subject))
    return [bank.prometheus.count(where, expression) for where, expression in expressions()]


def test_every_selector_of_every_rule_finds_series_under_load(bank: ComposedBank):
    source, target = bank.open_account(1_000_000), bank.open_account()
    # Rules convert minor units by currency: none, three and four decimals beside the dollar's two.
    for currency in ("JPY", "KWD", "CLF"):
        account = bank.post("/accounts", {"currency": currency}).json()["id"]
        deposit = bank.post(f"/accounts/{account}/deposits", {"amount": 1, "currency": currency})
        assert deposit.status_code == 201, deposit.text
    # A client's error.
    assert bank.post("/transfers", usd(10**12, from_account=source, to_account=target)).status_code == 409
    counts: list[Count] = []

    def complete() -> bool:
        counts[:] = counted(bank)
        return all(set(count.empty) <= ABSENT.keys() for count in counts)

    with retrying_transfers(bank, source, target, clients=2):
        try:
            eventually(complete, 300)
        finally:
            print(table(counts))
    used = {selector for count in counts for selector in count.selectors}
    assert ABSENT.keys() <= used, "an exception for what no rule asks for any more"


def test_every_query_of_a_runbook_parses(bank: ComposedBank):
    queries = [
        query
        for file in RUNBOOKS.glob("*.md")
        for query in re.findall(r"promtool query instant \S+ '(.+)'", file.read_text(encoding="utf-8"))
    ]
    assert len(queries) > 30 and all(bank.prometheus.selectors(query) for query in queries)


def test_prometheus_and_alertmanager_accept_their_configurations(bank: ComposedBank):
    bank.compose("exec", "-T", "prometheus", "promtool", "check", "config", "/etc/monitoring/prometheus-config.yml")
    bank.compose("exec", "-T", "alertmanager", "amtool", "check-config", "/etc/monitoring/alertmanager.yml")
    # On a busy machine one evaluation or scrape may fail; what is wrong stays wrong.
    found: list[Any] = []

    def well() -> bool:
        groups = bank.prometheus.get("rules")["groups"]
        targets = bank.prometheus.get("targets", state="active")["activeTargets"]
        # Replicas that are gone stay in the list for a while.
        up = Counter(
            (target["labels"]["job"], target["labels"].get("service"), target["labels"].get("track"))
            for target in targets
            if target["labels"]["job"] in ("services", "load") and target["health"] == "up"
        )
        running = {service: len(bank.containers(service)) for service in SERVICES}
        expected = {("services", service, "stable"): count for service, count in running.items()}
        expected["load", None, None] = sum(running.values())
        found[:] = [
            *(rule["lastError"] for group in groups for rule in group["rules"] if rule.get("lastError")),
            *(
                (target["labels"], target["lastError"])
                for target in targets
                if target["health"] != "up" and target["labels"]["job"] not in ("services", "load")
            ),
            *([up] if up != expected else []),
        ]
        return not found

    try:
        eventually(well, 120, every=1)
    finally:
        print(found)


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ({"alertname": "ServiceDown", "severity": "page", "service": "account-service"}, "slack"),
        ({"alertname": "ReplicaDown", "severity": "ticket", "service": "account-service"}, "slack"),
        ({"alertname": "ScaleOutNeeded", "severity": "info", "receiver": "autoscaler"}, "autoscaler"),
        ({"alertname": "Watchdog", "severity": "info", "receiver": "dead-mans-switch"}, "dead-mans-switch"),
    ],
)
def test_an_alert_goes_to_its_receiver(bank: ComposedBank, labels: dict[str, str], receiver: str):
    command = ("amtool", "config", "routes", "test", "--config.file=/etc/monitoring/alertmanager.yml")
    given = [f"{name}={value}" for name, value in labels.items()]
    bank.compose("exec", "-T", "alertmanager", *command, f"--verify.receivers={receiver}", *given)


def test_postgres_exporter_cannot_read_accounts(bank: ComposedBank):
    bank.sql("postgres", "SET ROLE monitor; SELECT count(*) FROM pg_stat_activity")
    for database in ("account", "transaction"):
        with pytest.raises(AssertionError, match="permission denied"):
            bank.sql(database, "SET ROLE monitor; SELECT count(*) FROM entries")


def test_unrouted_alerts_have_a_default_receiver(bank: ComposedBank):
    response = bank.compose(
        "exec", "-T", "alertmanager", "wget", "-q", "-O", "-", "--post-data={}", "http://nginx:8081/sink"
    )
    assert response.strip() == "ok"


def test_nginx_metrics_are_not_routed(bank: ComposedBank):
    for path in ("/status", "/sink", "/health"):
        assert bank.client.get(path).status_code == 404
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{bank.api_url.rpartition(':')[0]}:8081/status", timeout=2)


@pytest.mark.usefixtures("autoscaler_rests")
def test_a_killed_replica_is_notified_and_resolved(bank: ComposedBank):
    (result,) = run(bank, REPLICA)
    print(format_result(result))
    # How soon is a threshold of the drill.
    assert result.firing is not None and result.resolved is not None and not result.errors, format_result(result)


def test_the_autoscaler_and_the_dead_mans_switch_are_called(bank: ComposedBank):
    # The load of a quiet stack would fit on fewer replicas, so ScaleInPossible fires all the time.
    accepted = 'autoscale_webhooks_total{outcome="accepted"}'
    eventually(lambda: (bank.prometheus.value(accepted) or 0) >= 2, 300)
    eventually(lambda: bank.messages("/dead-mans-switch"), 300)
