"""A rollout on the composed stack, driven manually through rollout-service's command line."""

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from harness.client import eventually, repeating
from harness.composed_stack import ComposedBank

SERVICES = ("account-service", "transaction-service")
CANARIES = tuple(f"{service}-canary" for service in SERVICES)


def rollout_cli(bank: ComposedBank, *arguments: str, stdin: str = "") -> dict[str, Any]:
    """Run a command of rollout-service and return the state; a rejected command (exit code 3) changes nothing."""
    script = 'given=$1; shift; printf %s "$given" | python -m app.cli "$@" || [ $? = 3 ]'
    output = bank.compose("exec", "-T", "rollout-service", "sh", "-c", script, "sh", stdin, *arguments)
    state: dict[str, Any] = json.loads(output)
    return state


def start_rollout(bank: ComposedBank, **changes: Any) -> str:
    """Start a rollout of the running version and its canaries; return its id once clients are routed to them.

    Without changes it stays at its first step. Docker may take longer than a lease to start containers.
    """
    images = {service: bank.inspect("{{.Config.Image}}", bank.containers(service)[0])[0] for service in SERVICES}
    request = {"driver": "a test", "version": "same", "images": images, "previous": images}
    request |= {"bake_seconds": 900, "step_timeout_seconds": 1200, "synthetic": True, **changes}
    rollout: str = rollout_cli(bank, "begin", "-", stdin=json.dumps(request))["id"]
    # Without a build there are no images with the canaries' names from .env.
    names = {f"{one.upper().replace('-', '_')}_CANARY_IMAGE": image for one, image in images.items()}
    with renewing(bank, rollout):
        bank.compose("--profile", "canary", "up", "--detach", "--no-deps", *CANARIES, **names)
        eventually(lambda: rollout_cli(bank, "provisioned", rollout)["phase"] == "canary", 180)
        eventually(lambda: rollout_cli(bank, "status")["weight"] > 0)
    return rollout


def renewing(bank: ComposedBank, rollout: str) -> AbstractContextManager[None]:
    """Renew the lease of a rollout while the block runs: on a busy machine it may take longer than a lease."""
    return repeating(lambda: rollout_cli(bank, "renew", rollout), every=5)


def roll_back(bank: ComposedBank, reason: str) -> None:
    """Roll back the rollout in progress, if there is one, and wait until nothing is left of it."""
    rollout_cli(bank, "abort", "current", reason)
    eventually(lambda: rollout_cli(bank, "status")["phase"] == "idle", 180)


@contextmanager
def running_rollout(bank: ComposedBank, reason: str, **changes: Any) -> Iterator[str]:
    """Run a rollout while the block runs, with its lease renewed, and roll it back for a reason afterwards."""
    try:
        rollout = start_rollout(bank, **changes)
        with renewing(bank, rollout):
            yield rollout
    finally:
        roll_back(bank, reason)
