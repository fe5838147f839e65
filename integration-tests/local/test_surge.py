"""`make load SHAPE=surge`: its load profile, its thresholds, and a short surge on the local stack."""

import json
import os
import subprocess
from xml.etree import ElementTree

import pytest
from harness.local_stack import LocalBank
from plot_surge import plot
from surge_report import (
    Second,
    SentRequest,
    balance_difference,
    customers_at,
    expected_balances,
    missed_thresholds,
    p95,
    timeline,
)

from shared.testing.paths import ROOT


def test_load_grows_tenfold_in_30_seconds_and_stays_for_three_minutes():
    times = {0: 10, 59.9: 10, 75: 55, 90: 100, 269: 100, 270: 10, 359: 10, 360: None}
    assert {at: customers_at(at, 10, 1) for at in times} == times
    assert {at: customers_at(at / 10, 10, 0.1) for at in times} == times


def sent(path: str, amount: int, status: int) -> SentRequest:
    body = (
        {"amount": amount} if path.endswith("/deposits") else {"amount": amount, "from_account": "a", "to_account": "b"}
    )
    return SentRequest(path, "a", body, "token", status)


def test_balances_follow_from_acknowledged_requests_only():
    deposit, transfer = "/api/v1/accounts/a/deposits", "/api/v1/transfers"
    requests = [sent(deposit, 500, 201), sent(transfer, 200, 201), sent(transfer, 100, 409), sent(deposit, 50, 429)]
    assert expected_balances(requests) == {"a": 300, "b": 200}
    assert balance_difference({"a": 300, "b": 200}, {"a": 300, "b": 200}) == 0
    # Lost, posted twice, and posted to another account.
    assert balance_difference({"a": 300, "b": 200}, {"a": 100, "b": 200}) == 200
    assert balance_difference({"a": 300, "b": 200}, {"a": 100, "b": 400}) == 400
    assert balance_difference({"a": 300}, {"a": 300, "c": 7}) == 7
    uncertain = [
        status for status in (0, 201, 400, 401, 404, 409, 422, 429, 500, 503) if sent(transfer, 1, status).is_uncertain
    ]
    assert uncertain == [0, 409, 500, 503]


def test_each_missed_threshold_is_reported():
    good, bad = Second(), Second()
    good.count(201, False, 5)
    good.count(503, True, 1)
    good.count(429, True, 1)
    bad.count(503, False, 1)
    assert missed_thresholds([good], 0, 0, 0) == []
    assert missed_thresholds([], 0, 0, 0) == ["no request succeeded"]
    assert missed_thresholds([good, bad], 0, 0, 0) == ["rejections without Retry-After: 1"]
    assert len(missed_thresholds([good, bad], 3, 2, 1)) == 4


def test_the_timeline_has_rates_and_p95_per_five_seconds_and_is_plotted():
    seconds = {at: Second(users=at) for at in range(7)}
    for value in range(1, 101):
        seconds[3].count(200, False, value)
    seconds[6].count(0, False, 10_000)
    first, second = timeline(seconds)
    assert (first["ok"], first["users"], first["p95"]) == (20, 4, 95) and p95([7]) == 7
    assert (second["ok"], second["failed"], second["p95"]) == (0, 0.2, None)
    report = {"timeline": [first, second], "replicas": {"ready": [(0, 2), (5, 6)]}}
    svg = ElementTree.fromstring(plot({"with <it>": report, "without": {**report, "replicas": {}}}))
    paths = svg.findall("{http://www.w3.org/2000/svg}path")
    # Customers, three rates and p95 each, and the replicas of one.
    assert len(paths) == 11 and all(path.get("d", "").startswith("M") for path in paths)


@pytest.mark.parametrize("bank", ["PostgreSQL, two replicas"], indirect=True)
def test_balances_are_correct_after_a_short_surge(bank: LocalBank):
    var_dir, url = str(bank.stack.var_dir), bank.stack.api_url
    environment = {
        **os.environ,
        "BASE_URL": url,
        "VAR_DIR": var_dir,
        "SHAPE": "surge",
        "SURGE_SCALE": "0.02",
        "USERS": "2",
    }
    done = subprocess.run(
        ["load-tests/run_load_test.sh"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((ROOT / "reports/load/surge.json").read_text(encoding="utf-8"))
    assert (report["balance_difference"], report["mismatches"], report["missed"]) == (0, 0, [])
    assert report["totals"]["ok"] > 20 and report["totals"]["failed"] == 0
    assert max(row["users"] for row in report["timeline"]) >= 15
    assert (ROOT / "reports/load/surge.svg").read_text(encoding="utf-8").startswith("<svg")


@pytest.mark.parametrize("argument", ["SHAPE=flood", "SURGE_SCALE=0", "SURGE_SCALE=-1", "SURGE_SCALE=nan"])
def test_an_invalid_shape_or_scale_is_rejected_at_once(argument: str):
    done = subprocess.run(
        ["load-tests/run_load_test.sh", argument], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "load: FAILED" in done.stderr
