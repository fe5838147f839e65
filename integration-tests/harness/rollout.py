"""A rollout on the composed stack, driven manually through rollout-service's command line."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from harness.client import eventually
from harness.composed_stack import ComposedBank

SERVICES = ("account-service", "transaction-service")
CANARIES = tuple(f"{service}-canary" for service in SERVICES)


def rollout_cli(bank: ComposedBank, *arguments: str, stdin: str = "") -> dict[str, Any]:
    """Run a command of rollout-service and return the state; a rejected command (exit code 3) changes nothing."""
    script = 'given=$1; shift; printf %s "$given" | python -m app.cli "$@" || [ $? = 3 ]'
    output = bank.compose("exec", "-T", "rollout-service", "sh", "-c", script, "sh", stdin, *arguments)
    # The reason for a rejection is printed before or after the state.
    state: dict[str, Any] = json.JSONDecoder().raw_decode(output, output.index("{\n"))[0]
    return state


def start_rollout(bank: ComposedBank, **changes: Any) -> str:
    """Start a rollout of the running version and its canaries; return its id once clients are routed to them."""
    images = {one: bank.inspect("{{.Config.Image}}", bank.containers(one)[0])[0] for one in SERVICES}
    request = {"driver": "a test", "version": "same", "images": images, "previous": images}
    body = json.dumps({**request, "bake_seconds": 5, "budget_seconds": 120, "synthetic": True, **changes})
    rollout: str = rollout_cli(bank, "begin", "-", stdin=body)["id"]
    # Without a build there are no images with the canaries' names from .env.
    names = {f"{one.upper().replace('-', '_')}_CANARY_IMAGE": image for one, image in images.items()}
    bank.compose("--profile", "canary", "up", "--detach", "--no-deps", *CANARIES, **names)
    eventually(lambda: rollout_cli(bank, "provisioned", rollout)["phase"] == "canary", 90)
    eventually(lambda: rollout_cli(bank, "renew", rollout)["weight"] > 0, 30)
    return rollout


@contextmanager
def renewing(bank: ComposedBank, rollout: str) -> Iterator[None]:
    """Renew the lease of a rollout while the block runs: on a busy machine it may take longer than a lease."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(5):
            rollout_cli(bank, "renew", rollout)

    driver = threading.Thread(target=renew)
    driver.start()
    try:
        yield
    finally:
        stop.set()
        driver.join()
