"""A surge for Locust: calm, ten times the customers within 30 seconds, three minutes of that, and calm again.

Run by run_load_test.sh with SHAPE=surge, together with locustfile.py. SURGE_SCALE multiplies all durations. At the end
it repeats the requests without an answer, compares every balance with the acknowledged requests, and writes
reports/load/surge.json. The exit code is 1 if money is lost or a refusal has no Retry-After.
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
from surge_outcomes import COUNTS, FACTOR, Post, Second, customers_at, expected_balances, missed, money_lost, timeline

from recorded_posts import POSTS
from shared.testing import lab_keys

_SCALE = float(os.environ.get("SURGE_SCALE", "1"))
_REPORT = Path("reports/load/surge.json")
_REPEATS, _SETTLE_SECONDS = 20, 120
_SERIES = '{__name__=~"service:replicas:ready|autoscale_dry_run_replicas",track=~"stable|",service="account-service"}'

logging.getLogger("httpx").setLevel(logging.WARNING)
_seconds: dict[int, Second] = defaultdict(Second)
_run: dict[str, Any] = {"start": 0.0, "environment": None}


class Surge(LoadTestShape):
    """The number of customers over time; `--users` is the calm number."""

    def tick(self) -> tuple[int, float] | None:
        """Return the number of customers now and how many start per second."""
        calm = self.runner.environment.parsed_options.num_users if self.runner else 1
        count = customers_at(self.get_run_time(), calm, _SCALE)
        # The number above is the ramp; what it asks for starts at once.
        return None if count is None else (count, float(calm * FACTOR))


@events.test_start.add_listener
def _begin(environment: Environment, **_: Any) -> None:
    _run.update(start=time.time(), environment=environment)


@events.request.add_listener
def _count(response: Any, response_time: float, exception: Exception | None, **_: Any) -> None:
    status = getattr(response, "status_code", 0) or 0
    if exception is None and status >= 400:
        # The customer expects it, such as 404 until the history has the new account.
        return
    second = _seconds[int(time.time() - _run["start"])]
    runner = _run["environment"].runner
    second.users = runner.user_count if runner else 0
    second.count(status, "Retry-After" in getattr(response, "headers", {}), response_time)


def _repeat(client: httpx.Client, key: str, post: Post) -> Post:
    """Repeat a request with its key until its outcome is known; the status is 0 if it never is."""
    headers = {"Authorization": f"Bearer {post.token}", "Idempotency-Key": key}
    for _ in range(_REPEATS):
        with suppress(httpx.HTTPError):
            response = client.post(post.path, json=dict(post.body), headers=headers)
            if response.status_code < 500 and response.json().get("code") not in (
                "request-in-progress",
                "rate-limited",
            ):
                return post._replace(status=response.status_code)
        time.sleep(0.5)
    return post._replace(status=0)


def _balances(client: httpx.Client, names: list[str], operator: dict[str, str]) -> dict[str, int]:
    return {name: client.get(f"/api/v1/accounts/{name}", headers=operator).json()["balance"] for name in names}


def _mismatches(client: httpx.Client, operator: dict[str, str]) -> int:
    """Return the number of accounts whose history differs from the ledger once the events have arrived."""
    found = 0
    for _ in range(_SETTLE_SECONDS):
        found = int(client.get("/api/v1/reconciliation", headers=operator).json()["mismatches"])
        if not found:
            break
        time.sleep(1)
    return found


def _replicas(start: float, end: float) -> dict[str, list[tuple[float, float]]]:
    """Return the replicas over time from the composed stack's Prometheus; nothing without one."""
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
        posts = [_repeat(client, key, post) if post.is_unknown else post for key, post in POSTS.items()]
        expected = expected_balances(posts)
        lost = money_lost(expected, _balances(client, list(expected), operator))
        mismatches = _mismatches(client, operator)
    unresolved = sum(post.status == 0 for post in posts)
    lines = missed(_seconds.values(), lost, mismatches, unresolved)
    totals = {name: sum(getattr(one, name) for one in _seconds.values()) for name in COUNTS}
    money = {"money_lost": lost, "mismatches": mismatches, "repeated": sum(post.is_unknown for post in POSTS.values())}
    rows, replicas = timeline(_seconds), _replicas(_run["start"], end)
    document = {"scale": _SCALE, "totals": totals, **money, "timeline": rows, "replicas": replicas, "missed": lines}
    _REPORT.write_text(json.dumps(document), encoding="utf-8")
    print(f"surge: {totals['ok']} requests succeeded, {totals['refused']} were refused, {totals['failed']} failed")
    print(f"surge: {money['repeated']} repeated without an answer; money lost: {lost}; mismatches: {mismatches}")
    for line in lines:
        print(f"surge: FAILED: {line}")
    environment.process_exit_code = 1 if lines else 0


def _key() -> Path:
    return lab_keys.ensure(lab_keys.var_dir() / "secrets").key
