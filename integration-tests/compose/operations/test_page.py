"""The operations page on the composed stack: what it says of a rollout, of the autoscaler, and of one that is gone.

PICTURES=docs/images keeps what was seen of them there.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.browser import DESKTOP, PHONE, Browser, Looked, chromium
from harness.composed_stack import ComposedBank
from harness.client import eventually
from test_rollout import begun, operate

from shared.testing.paths import ROOT

SERVICES = ("account-service", "transaction-service")
PARTS = ("autoscale-service", "rollout-service")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    with chromium() as browser:
        yield browser


@contextmanager
def rollout(bank: ComposedBank, **changes: Any) -> Iterator[str]:
    """A rollout whose canaries receive traffic, with its lease renewed; afterwards everything is as before."""
    name = begun(bank, **changes)
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(5):
            operate(bank, "renew", name)

    driver = threading.Thread(target=renew)
    driver.start()
    try:
        yield name
    finally:
        stop.set()
        driver.join()
    operate(bank, "abort", "eve has asked bob")
    eventually(lambda: operate(bank, "status")["phase"] == "idle", 90)


def keep(looked: Looked, name: str) -> None:
    if folder := os.environ.get("PICTURES"):
        looked.picture(ROOT / Path(folder) / f"operations-page-{name}.png")


def test_a_rollout_and_a_decision_of_the_autoscaler_are_shown(bank: ComposedBank, browser: Browser) -> None:
    # Fewer than are allowed.
    bank.operate("scale", "account-service", "1")
    with Looked(browser, bank.api_url) as looked:
        looked.waits_for("overall", "All is well", 60)
        looked.waits_for("autoscaler", "account-service 1 → 2: fewer than are allowed", 90)
        assert "● It decides." in looked.page.inner_text("#autoscaler")
        looked.waits_for("services", "2 of 2 ready, 2 wanted (2 to 8)", 60)
        assert "All clients get stable." in looked.page.inner_text("#split")
        looked.waits_for("rollout", "No rollout is under way.")
        with rollout(bank, bake_seconds=240, budget_seconds=480):
            looked.waits_for("split", "90 % of clients get stable, 10 % the canary.", 90)
            looked.waits_for("rollout", "The canary serves. Step 1 of 2.", 90)
            services = looked.waits_for("services", "canary")
            assert services.count("● ready") == 4 and services.count("track\ncanary") == 2
            for scheme, viewport in (("light", DESKTOP), ("dark", DESKTOP), ("dark", PHONE)):
                with Looked(browser, bank.api_url, color_scheme=scheme, viewport=viewport) as other:
                    other.waits_for("rollout", "last verdict", 90)
                    other.waits_for("overall", "All is well")
                    assert other.faint() == [] and not other.overflows() and other.complaints == []
                    keep(other, scheme if viewport == DESKTOP else "phone")
        looked.waits_for("split", "All clients get stable.", 90)
        looked.waits_for("rollout", "it was taken back", 60)
        everything = looked.page.inner_text("body") + "".join(
            bank.client.get(f"/ops/{name}.json").text for name in ("edge", *SERVICES, *PARTS)
        )
        for secret in ("eve has asked", "a test begins", "sha256:", "docker-proxy", "postgres:", "10.", "172."):
            assert secret not in everything.replace("10 % of", "")
        # Operators' own ways in stay closed.
        for path in ("/status", "/pause", "/ops/pause", "/webhook/autoscale", "/health/summary"):
            assert bank.client.post(path).status_code == 404 and bank.client.get(path).status_code == 404


def test_a_part_that_is_gone_is_said_in_its_panel_alone(bank: ComposedBank, browser: Browser) -> None:
    with Looked(browser, bank.api_url) as looked:
        looked.waits_for("overall", "All is well", 60)
        try:
            bank.compose("stop", "autoscale-service")
            looked.waits_for("autoscaler", "✕ autoscale-service does not answer", 60)
            assert looked.waits_for("overall", "does not answer") == "✕ autoscale-service does not answer."
            assert "✕" not in looked.page.inner_text("#rollout")
            bank.compose("stop", "rollout-service")
            looked.waits_for("rollout", "✕ rollout-service does not answer", 60)
            assert looked.page.inner_text("#services").count("● ready") == 2
        finally:
            bank.compose("start", *PARTS)
        looked.waits_for("overall", "All is well", 90)
