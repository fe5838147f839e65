"""Send webhooks that the autoscaler must reject: forged, replayed, too large, or for services that it does not scale.

    make drills DRILL=autoscale_webhooks

Runs on a composed stack. Prints a line per webhook; exits 1 if one is accepted or not counted, or if a container is
started or removed.
"""

import hashlib
import hmac
import json
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness.commands import exit_code
from harness.composed_stack import ComposedBank
from harness.client import eventually

SERVICE = "account-service"
_HOOK = "http://127.0.0.1:8000/webhook/autoscale"
_MAX_BYTES = 256 * 1024
# Longer than the control loop needs to observe, decide and start an operation.
_SETTLE_SECONDS = 8
# A new stack needs time until it has metrics and the CPU load of its start is over.
_IDLE_TIMEOUT_SECONDS = 180
_SEND = (
    "import httpx, json, sys; print(json.dumps([httpx.post(sys.argv[1], content=body.ljust(size), headers=headers,"
    " timeout=60).status_code for headers, body, size in json.loads(sys.argv[2])]))"
)


@dataclass(frozen=True, slots=True)
class Webhook:
    """A request, its expected status and outcome in the metrics; the body is padded to `size` bytes with spaces."""

    name: str
    headers: dict[str, str]
    body: str
    status: int
    outcome: str
    size: int = 0


def _payload(service: str, *others: str) -> str:
    alerts = [
        {"status": "firing", "labels": {"service": one, "action": "scale_out"}, "startsAt": "2026-01-01T12:00:00Z"}
        for one in (service, *others)
    ]
    return json.dumps({"version": "4", "status": "firing", "receiver": "x", "groupKey": "x", "alerts": alerts})


def _signed(body: str, secret: str, at: float) -> dict[str, str]:
    timestamp = str(int(at))
    signature = hmac.new(secret.encode(), f"{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
    return {"X-Grafana-Alerting-Signature": signature, "X-Grafana-Alerting-Timestamp": timestamp}


def webhooks(secret: str, now: float) -> list[Webhook]:
    """Return the webhooks in order; two are valid, and others are replays or modifications of them."""
    good, bearer = _payload(SERVICE), {"Authorization": f"Bearer {secret}"}
    signed = _signed(good, secret, now)
    # Rejected before the body is parsed.
    forged = [
        ("no secret", {}, good),
        ("wrong secret", {"Authorization": f"Bearer {'x' * len(secret)}"}, good),
        ("truncated secret", {"Authorization": f"Bearer {secret[:-1]}"}, good),
        ("secret as basic auth user name", {"Authorization": f"Basic {secret}"}, good),
        ("signed with a wrong secret", _signed(good, "x" * len(secret), now), good),
        ("body changed after signing", signed, _payload("transaction-service")),
        ("valid secret and invalid signature", {**bearer, **_signed(good, "x", now)}, good),
        ("signed, replayed", signed, good),
        ("signed, replayed with a new timestamp", {**signed, "X-Grafana-Alerting-Timestamp": f"{now + 1:.0f}"}, good),
        ("signature six minutes old", _signed(good, secret, now - 360), good),
        ("signature six minutes in the future", _signed(good, secret, now + 360), good),
    ]
    others = ["postgres", "nats", "nginx", "docker-proxy", "autoscale-service", f"{SERVICE}-canary", "nobody"]
    return [
        Webhook("valid, with the secret as Alertmanager sends it", bearer, good, 202, "accepted"),
        Webhook("valid, signed as by Grafana", signed, good, 202, "accepted"),
        *(Webhook(name, headers, body, 401, "unauthorized") for name, headers, body in forged),
        Webhook("one byte too large", bearer, good, 413, "too_large", _MAX_BYTES + 1),
        Webhook("four times too large", bearer, good, 413, "too_large", 4 * _MAX_BYTES),
        *(Webhook(f"for {name}", bearer, _payload(name), 422, "unknown_service") for name in others),
        Webhook("for a service and postgres", bearer, _payload(SERVICE, "postgres"), 422, "unknown_service"),
        Webhook("not JSON", bearer, "{", 400, "malformed"),
        Webhook("invalid payload", bearer, "{}", 422, "malformed"),
    ]


def _counted(bank: ComposedBank) -> Counter[str]:
    """Return autoscale_webhooks_total by outcome."""
    script = "import httpx; print(httpx.get('http://127.0.0.1:8000/metrics').text)"
    found: Counter[str] = Counter()
    for text in bank.inside("autoscale-service", "python", "-c", script).splitlines():
        if text.startswith("autoscale_webhooks_total{"):
            found[text.partition('outcome="')[2].partition('"')[0]] = int(float(text.rpartition(" ")[2]))
    return found


def _containers(bank: ComposedBank) -> set[str]:
    """Return every container of the stack, including stopped ones."""
    label = f"label=com.docker.compose.project={bank.project}"
    return set(bank.docker("ps", "--all", "--quiet", "--no-trunc", "--filter", label).split())


def _is_idle(bank: ComposedBank) -> bool:
    """Return whether the autoscaler has metrics and proposes no change; later changes are then caused by the webhooks.

    Without metrics an alert adds a replica, as it should.
    """
    services = json.loads(bank.autoscale_cli("status"))["services"].values()
    return all(
        one["proposal"] is not None and one["desired"] == one["current"] and not one["operation_in_progress"]
        for one in services
    )


def send(bank: ComposedBank) -> tuple[list[str], list[str]]:
    """Send every webhook once the autoscaler is idle; return the rows of a table and the failed checks."""
    eventually(lambda: _is_idle(bank), _IDLE_TIMEOUT_SECONDS, 1)
    secret = bank.secrets.joinpath("autoscale_token").read_text(encoding="utf-8")
    sent = webhooks(secret, time.time())
    calls = json.dumps([[request.headers, request.body, request.size] for request in sent])
    containers, before = _containers(bank), _counted(bank)
    responses = json.loads(bank.inside("autoscale-service", "python", "-c", _SEND, _HOOK, calls))
    time.sleep(_SETTLE_SECONDS)
    rows = [f"{response}  {one.outcome:16} {one.name}" for one, response in zip(sent, responses, strict=True)]
    wrong = [
        f"{request.name}: status {response}, expected {request.status}"
        for request, response in zip(sent, responses, strict=True)
        if response != request.status
    ]
    # Alertmanager may send webhooks meanwhile; they are accepted.
    counted = _counted(bank) - before
    expected = Counter(request.outcome for request in sent)
    if {**counted, "accepted": 0} != {**expected, "accepted": 0} or counted["accepted"] < expected["accepted"]:
        wrong.append(f"counted {dict(counted)}, expected {dict(expected)}")
    if changed := containers ^ _containers(bank):
        wrong.append(f"containers added or removed: {changed}")
    rejected = sum(response >= 400 for response in responses)
    rows.append(
        f"{rejected} of {len(sent) - expected['accepted']} rejected, no container added or removed" * (not wrong)
    )
    return rows, wrong


def main() -> int:
    """Run the drill."""
    with tempfile.TemporaryDirectory(prefix="bank-drill-") as folder:
        bank = ComposedBank(Path(folder))
        try:
            rows, wrong = send(bank)
        finally:
            bank.close()
    print("\n".join(rows))
    return exit_code(wrong)


if __name__ == "__main__":
    sys.exit(main())
