"""A surge for Locust: baseline load, a ramp to ten times as many customers in 30 seconds, three minutes of peak load,
and baseline load again.

Run by run_load_test.sh with SHAPE=surge, together with locustfile.py. SURGE_SCALE multiplies all durations. At the end
it retries the requests without a response, compares every balance with the acknowledged requests, and writes
reports/load/surge.json. The exit code is 1 if a balance differs or a rejection has no Retry-After.
"""

import json
import logging
import os
import subprocess
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
from locust import LoadTestShape, events
from locust.env import Environment
from surge_report import (
    COUNTS,
    PEAK_FACTOR,
    Second,
    SentRequest,
    balance_difference,
    customers_at,
    expected_balances,
    missed_thresholds,
    timeline,
)

from sent_requests import SENT
from shared.testing import lab_keys

_SCALE = float(os.environ.get("SURGE_SCALE", "1"))
_REPORT = Path("reports/load/surge.json")
_MAX_RETRIES, _CATCH_UP_SECONDS = 20, 120
_SERIES = '{__name__=~"service:replicas:ready|autoscale_dry_run_replicas",track=~"stable|",service="account-service"}'

logging.getLogger("httpx").setLevel(logging.WARNING)
_seconds: dict[int, Second] = defaultdict(Second)
_run: dict[str, Any] = {"start": 0.0, "environment": None}


class Surge(LoadTestShape):
    """The number of customers over time; `--users` is the baseline."""

    def tick(self) -> tuple[int, float] | None:
        """Return the current number of customers and the spawn rate per second; None at the end."""
        baseline = self.runner.environment.parsed_options.num_users if self.runner else 1
        count = customers_at(self.get_run_time(), baseline, _SCALE)
        # customers_at defines the ramp; the spawn rate is high enough not to limit it.
        return None if count is None else (count, float(baseline * PEAK_FACTOR))


@events.test_start.add_listener
def _start(environment: Environment, **_: Any) -> None:
    _run.update(start=time.time(), environment=environment)


@events.request.add_listener
def _count(response: Any, response_time: float, exception: Exception | None, **_: Any) -> None:
    status = getattr(response, "status_code", 0) or 0
    if exception is None and status >= 400:
        # Expected by the customer, e.g. 404 until the history contains a new account.
        return
    second = _seconds[int(time.time() - _run["start"])]
    runner = _run["environment"].runner
    second.users = runner.user_count if runner else 0
    second.count(status, "Retry-After" in getattr(response, "headers", {}), response_time)


def _retry(client: httpx.Client, key: str, request: SentRequest) -> SentRequest:
    """Retry a request with its key until the response is final; the status is 0 if none is."""
    headers = {"Authorization": f"Bearer {request.token}", "Idempotency-Key": key}
    for _ in range(_MAX_RETRIES):
        with suppress(httpx.HTTPError):
            response = client.post(request.path, json=dict(request.body), headers=headers)
            if response.status_code < 500 and response.json().get("code") not in (
                "request-in-progress",
                "rate-limited",
            ):
                return request._replace(status=response.status_code)
        time.sleep(0.5)
    return request._replace(status=0)


def _balances(client: httpx.Client, names: list[str], operator: dict[str, str]) -> dict[str, int]:
    return {name: client.get(f"/api/v1/accounts/{name}", headers=operator).json()["balance"] for name in names}


def _mismatches(client: httpx.Client, operator: dict[str, str]) -> int:
    """Return the number of reconciliation mismatches: 0 as soon as there are none, or those left at the timeout."""
    mismatches = 0
    for _ in range(_CATCH_UP_SECONDS):
        mismatches = int(client.get("/api/v1/reconciliation", headers=operator).json()["mismatches"])
        if not mismatches:
            break
        time.sleep(1)
    return mismatches


def _replicas(start: float, end: float) -> dict[str, list[tuple[float, float]]]:
    """Return the replicas over time from the composed stack's Prometheus; empty without Prometheus."""
    query = f"query={_SERIES}&start={start:.0f}&end={end:.0f}&step=5"
    command = ["scripts/stack/compose.sh", "exec", "-T", "prometheus", "wget", "-q", "-O", "-"]
    url = (
        f"http://127.0.0.1:9090/api/v1/query_range?{query}".replace("{", "%7B").replace("}", "%7D").replace('"', "%22")
    )
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        return {}
    names = {"service:replicas:ready": "ready", "autoscale_dry_run_replicas": "dry_run"}
    return {
        names[series["metric"]["__name__"]]: [(at - start, float(value)) for at, value in series["values"]]
        for series in json.loads(done.stdout)["data"]["result"]
    }


@events.quitting.add_listener
def _report(environment: Environment, **_: Any) -> None:
    end = time.time()
    operator = {"Authorization": f"Bearer {lab_keys.sign(_key(), 'load-operator', 'bank:operator')}"}
    with httpx.Client(base_url=str(environment.host), timeout=60) as client:
        requests = [_retry(client, key, sent) if sent.is_uncertain else sent for key, sent in SENT.items()]
        expected = expected_balances(requests)
        difference = balance_difference(expected, _balances(client, list(expected), operator))
        mismatches = _mismatches(client, operator)
    unresolved = sum(request.status == 0 for request in requests)
    retried = sum(sent.is_uncertain for sent in SENT.values())
    missed = missed_thresholds(_seconds.values(), difference, mismatches, unresolved)
    totals = {name: sum(getattr(second, name) for second in _seconds.values()) for name in COUNTS}
    document = {
        "scale": _SCALE,
        "totals": totals,
        "balance_difference": difference,
        "mismatches": mismatches,
        "retried": retried,
        "timeline": timeline(_seconds),
        "replicas": _replicas(_run["start"], end),
        "missed": missed,
    }
    _REPORT.write_text(json.dumps(document), encoding="utf-8")
    print(f"surge: {totals['ok']} requests succeeded, {totals['rejected']} rejected, {totals['failed']} failed")
    print(f"surge: {retried} retried; balance differences: {difference} minor units; mismatches: {mismatches}")
    for message in missed:
        print(f"surge: FAILED: {message}")
    environment.process_exit_code = 1 if missed else 0


def _key() -> Path:
    return lab_keys.ensure(lab_keys.var_dir() / "secrets").key
