"""The operations page on the composed stack: a rollout, the autoscaler, and unavailable components.

SCREENSHOTS=docs/images saves screenshots there.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.browser import DESKTOP, PHONE, Browser, Looked, chromium
from harness.composed_stack import ComposedBank
from harness.manual_rollout import SERVICES, running_rollout

from shared.testing.paths import ROOT

PARTS = ("autoscale-service", "rollout-service")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    with chromium() as browser:
        yield browser


def keep(looked: Looked, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        looked.picture(ROOT / Path(folder) / f"operations-page-{name}.png")


def test_the_page_shows_a_rollout_and_a_scaling_decision(bank: ComposedBank, browser: Browser) -> None:
    # Below the minimum.
    bank.operate("scale", "account-service", "1")
    with Looked(browser, bank.api_url) as looked:
        looked.waits_for("overall", "All systems operational")
        looked.waits_for("autoscaler", "account-service 1 → 2: below the minimum")
        looked.waits_for("autoscaler", "● Active")
        looked.waits_for("services", "2 of 2 ready, 2 desired (2 to 8)")
        looked.waits_for("split", "All clients on stable")
        looked.waits_for("rollout", "No rollout in progress")
        with running_rollout(bank, "eve has asked bob"):
            looked.waits_for("split", "Stable 90 %, canary 10 % of clients")
            looked.waits_for("rollout", "Canary receiving traffic, step 1 of 2 (10 %)")
            looked.waits_until(lambda: looked.counts("services", "● ready", "track\ncanary") == [4, 2])
            for scheme, viewport in (("light", DESKTOP), ("dark", DESKTOP), ("dark", PHONE)):
                with Looked(browser, bank.api_url, color_scheme=scheme, viewport=viewport) as other:
                    other.waits_for("rollout", "last verdict")
                    other.waits_for("overall", "All systems operational")
                    assert other.faint() == [] and not other.overflows() and other.complaints == []
                    keep(other, scheme if viewport == DESKTOP else "phone")
        looked.waits_for("split", "All clients on stable")
        looked.waits_for("rollout", "rolled back")
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
        looked.waits_for("overall", "All systems operational")
        try:
            bank.compose("stop", "autoscale-service")
            looked.waits_for("autoscaler", "✕ autoscale-service not responding")
            looked.waits_until(lambda: looked.text("overall") == "✕ autoscale-service not responding")
            looked.waits_until(lambda: looked.counts("rollout", "✕") == [0])
            bank.compose("stop", "rollout-service")
            looked.waits_for("rollout", "✕ rollout-service not responding")
            looked.waits_until(lambda: looked.counts("services", "● ready") == [2])
        finally:
            bank.compose("start", *PARTS)
        looked.waits_for("overall", "All systems operational")
