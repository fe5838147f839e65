"""Grafana's alert rules have the conditions of Prometheus' alerts, and each alert is sent exactly once."""

import re
from typing import Any

import pytest
import yaml

from monitoring.dashboards.panels import RUNBOOKS_URL
from monitoring.tests.series import selected
from shared.testing.paths import ROOT
from monitoring.tests.test_rules import RECORDED, rules

FOLDER = ROOT / "monitoring" / "grafana-alerting"
OPERATORS = {"gt": ">", "lt": "<"}
# Only in Grafana, because Prometheus cannot report its own outage.
ONLY_IN_GRAFANA = {"PrometheusSilent", "AlertmanagerSilent"}


def load(name: str) -> Any:
    """Return the content of a provisioning file."""
    return yaml.safe_load((FOLDER / f"{name}.yml").read_text(encoding="utf-8"))


RULES = [
    pytest.param(rule, id=rule["title"])
    for file in ("rules-service-health", "rules-autoscale")
    for group in load(file)["groups"]
    for rule in group["rules"]
]


def condition(rule: dict[str, Any]) -> str:
    """Return the condition of a rule as PromQL."""
    query, threshold = rule["data"]
    assert (query["refId"], query["datasourceUid"], query["model"]["instant"]) == ("A", "prometheus", True)
    assert (threshold["refId"], threshold["datasourceUid"], rule["condition"]) == ("C", "__expr__", "C")
    model = threshold["model"]
    assert (model["type"], model["expression"]) == ("threshold", "A")
    (only,) = model["conditions"]
    return f"{query['model']['expr']} {OPERATORS[only['evaluator']['type']]} {only['evaluator']['params'][0]}"


@pytest.mark.parametrize("rule", RULES)
def test_rule_matches_the_prometheus_alert_of_the_same_name(rule: dict[str, Any]):
    expression = rule["data"][0]["model"]["expr"]
    assert re.fullmatch(r"[a-z_:0-9]+(\{[^}]*\})?", expression), "must be a recorded series"
    assert selected(expression) <= RECORDED
    if rule["title"] in ONLY_IN_GRAFANA:
        return
    alert = rule["title"].split(" over ")[0]
    same = [(item["expr"], item.get("for", "0s"), item["labels"]) for item in rules() if item.get("alert") == alert]
    assert (condition(rule), rule["for"], rule["labels"]) in same


@pytest.mark.parametrize("rule", RULES)
def test_rule_links_a_runbook_and_contains_no_variables(rule: dict[str, Any]):
    url = rule["annotations"]["runbook_url"]
    assert (ROOT / "docs" / "runbooks" / url.removeprefix(f"{RUNBOOKS_URL}/")).is_file()
    texts = [*rule["annotations"].values(), *rule["labels"].values()]
    assert not [text for text in texts if "$" in text]


def test_uids_are_unique_and_short():
    uids = [rule.values[0]["uid"] for rule in RULES]
    assert len(uids) == len(set(uids)) and all(len(uid) <= 40 for uid in uids)


def receiver(labels: dict[str, str]) -> tuple[str, bool]:
    """Return the receiver of an alert with these labels, and whether its route is muted; the first match counts."""
    (policy,) = load("policies")["policies"]
    operators = {"=": lambda left, right: left == right}
    for route in policy["routes"]:
        if all(operators[sign](labels.get(name), value) for name, sign, value in route["object_matchers"]):
            return route["receiver"], bool(route.get("mute_time_intervals"))
    return policy["receiver"], False


@pytest.mark.parametrize("rule", RULES)
def test_each_alert_is_sent_once(rule: dict[str, Any]):
    labels = {**rule["labels"], "alertname": rule["title"], "grafana_folder": "Bank"}
    if rule["labels"].get("receiver") == "autoscaler":
        assert receiver(labels) == ("autoscaler", False)
    elif rule["title"] in ONLY_IN_GRAFANA:
        assert receiver(labels) == ("slack", False)
        assert rule["noDataState"] == "Alerting"
    else:
        assert receiver(labels) == ("slack", True), "Alertmanager sends it"
        assert (rule["noDataState"], rule["execErrState"]) == ("OK", "OK")


def test_alert_created_in_grafana_is_sent():
    assert receiver({"alertname": "Mine", "grafana_folder": "Other"}) == ("slack", False)


def test_lasting_surge_triggers_the_autoscaler_repeatedly():
    (policy,) = load("policies")["policies"]
    trigger = next(route for route in policy["routes"] if route["receiver"] == "autoscaler")
    assert (trigger["group_wait"], trigger["group_interval"], trigger["repeat_interval"]) == ("0s", "5s", "30s")


def test_policies_use_existing_contact_points_and_mute_times():
    points = {point["name"]: point["receivers"] for point in load("contact-points")["contactPoints"]}
    policies = load("policies")
    mutes = {mute["name"] for mute in policies["muteTimes"]}
    (policy,) = policies["policies"]
    for route in [policy, *policy["routes"]]:
        assert route["receiver"] in points
        assert set(route.get("mute_time_intervals", [])) <= mutes
    secrets = {"slack": ["url"], "autoscaler": ["authorization_credentials"]}
    for name, keys in secrets.items():
        (only,) = points[name]
        for key in keys:
            assert re.fullmatch(r"\$__file\{/run/secrets/\w+\}", only["settings"][key])
    (webhook,) = points["autoscaler"]
    assert webhook["settings"]["url"] == "http://autoscale-service:8000/webhook/autoscale"
    assert webhook["settings"]["authorization_scheme"] == "Bearer"
