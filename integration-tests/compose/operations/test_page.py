"""The operations page on the composed stack: a rollout, the autoscaler, and unavailable components.

SCREENSHOTS=docs/images saves screenshots there.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.browser import DESKTOP, PHONE, Browser, Looked, chromium
from harness.composed_stack import ComposedBank
from harness.client import eventually
from harness.rollout import renewing, rollout_cli as operate, start_rollout as begun

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
    """A rollout whose canaries receive traffic, with its lease renewed; rolled back afterwards."""
    name = begun(bank, **changes)
    try:
        with renewing(bank, name):
            yield name
    finally:
        operate(bank, "abort", "current", "eve has asked bob")
        eventually(lambda: operate(bank, "status")["phase"] == "idle", 90)


def keep(looked: Looked, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        looked.picture(ROOT / Path(folder) / f"operations-page-{name}.png")


def test_the_page_shows_a_rollout_and_a_scaling_decision(bank: ComposedBank, browser: Browser) -> None:
    # Below the minimum.
    bank.operate("scale", "account-service", "1")
    with Looked(browser, bank.api_url) as looked:
        looked.waits_for("overall", "All systems operational", 60)
        looked.waits_for("autoscaler", "account-service 1 → 2: below the minimum", 90)
        assert "● Active" in looked.page.inner_text("#autoscaler")
        looked.waits_for("services", "2 of 2 ready, 2 desired (2 to 8)", 60)
        assert "All clients on stable" in looked.page.inner_text("#split")
        looked.waits_for("rollout", "No rollout in progress")
        with rollout(bank, bake_seconds=240, budget_seconds=480):
            looked.waits_for("split", "Stable 90 %, canary 10 % of clients", 90)
            looked.waits_for("rollout", "Canary receiving traffic, step 1 of 2 (10 %)", 90)
            services = looked.waits_for("services", "canary")
            assert services.count("● ready") == 4 and services.count("track\ncanary") == 2
            for scheme, viewport in (("light", DESKTOP), ("dark", DESKTOP), ("dark", PHONE)):
                with Looked(browser, bank.api_url, color_scheme=scheme, viewport=viewport) as other:
                    other.waits_for("rollout", "last verdict", 90)
                    other.waits_for("overall", "All systems operational")
                    assert other.faint() == [] and not other.overflows() and other.complaints == []
                    keep(other, scheme if viewport == DESKTOP else "phone")
        looked.waits_for("split", "All clients on stable", 90)
        looked.waits_for("rollout", "rolled back", 60)
        everything = looked.page.inner_text("body") + "".join(
            bank.client.get(f"/ops/{name}.json").text for name in ("edge", *SERVICES, *PARTS)
        )
        for secret in ("eve has asked", "a test begins", "sha256:", "docker-proxy", "postgres:"):
            assert secret not in everything
        assert not re.search(r"\b(10|172)(\.\d{1,3}){3}\b", everything), "an address of a container"
        # Operator endpoints are not exposed.
        for path in ("/status", "/pause", "/ops/pause", "/webhook/autoscale", "/health/summary"):
            assert bank.client.post(path).status_code == 404 and bank.client.get(path).status_code == 404


def test_an_unavailable_component_affects_only_its_panel(bank: ComposedBank, browser: Browser) -> None:
    with Looked(browser, bank.api_url) as looked:
        looked.waits_for("overall", "All systems operational", 60)
        try:
            bank.compose("stop", "autoscale-service")
            looked.waits_for("autoscaler", "✕ autoscale-service not responding", 60)
            assert looked.waits_for("overall", "not responding") == "✕ autoscale-service not responding"
            assert "✕" not in looked.page.inner_text("#rollout")
            bank.compose("stop", "rollout-service")
            looked.waits_for("rollout", "✕ rollout-service not responding", 60)
            assert looked.page.inner_text("#services").count("● ready") == 2
        finally:
            bank.compose("start", *PARTS)
        looked.waits_for("overall", "All systems operational", 90)
