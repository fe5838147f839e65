"""The operations page on the composed stack: a rollout, the autoscaler, and unavailable components.

SCREENSHOTS=docs/images saves screenshots there.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.browser import DESKTOP, PHONE, Browser, LoadedPage, chromium
from harness.composed_stack import ComposedBank
from harness.manual_rollout import SERVICES, running_rollout

from shared.testing.paths import ROOT

PARTS = ("autoscale-service", "rollout-service")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    with chromium() as browser:
        yield browser


def keep(loaded: LoadedPage, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        loaded.picture(ROOT / Path(folder) / f"operations-page-{name}.png")


def test_the_page_shows_a_rollout_and_a_scaling_decision(bank: ComposedBank, browser: Browser) -> None:
    # Below the minimum.
    bank.autoscale_cli("scale", "account-service", "1")
    with LoadedPage(browser, bank.api_url) as loaded:
        loaded.waits_for("overall", "All systems operational")
        loaded.waits_for("autoscaler", "account-service 1 → 2: below the minimum")
        loaded.waits_for("autoscaler", "● Active")
        loaded.waits_for("services", "2 of 2 ready, 2 desired (2 to 8)")
        loaded.waits_for("split", "All clients on stable")
        loaded.waits_for("rollout", "No rollout in progress")
        with running_rollout(bank, "eve has asked bob"):
            loaded.waits_for("split", "Stable 90 %, canary 10 % of clients")
            loaded.waits_for("rollout", "Canary receiving traffic, step 1 of 2 (10 %)")
            loaded.waits_until(lambda: loaded.counts("services", "● ready", "track\ncanary") == [4, 2])
            for scheme, viewport in (("light", DESKTOP), ("dark", DESKTOP), ("dark", PHONE)):
                with LoadedPage(browser, bank.api_url, color_scheme=scheme, viewport=viewport) as other:
                    other.waits_for("rollout", "last verdict")
                    other.waits_for("overall", "All systems operational")
                    assert other.low_contrast_texts() == [] and not other.overflows() and other.errors == []
                    keep(other, scheme if viewport == DESKTOP else "phone")
        loaded.waits_for("split", "All clients on stable")
        loaded.waits_for("rollout", "rolled back")
        everything = loaded.page.inner_text("body") + "".join(
            bank.client.get(f"/ops/{name}.json").text for name in ("edge", *SERVICES, *PARTS)
        )
        for secret in ("eve has asked", "a test begins", "sha256:", "docker-proxy", "postgres:"):
            assert secret not in everything
        assert not re.search(r"\b(10|172)(\.\d{1,3}){3}\b", everything), "an address of a container"
        # Operator endpoints are not exposed.
        for path in ("/status", "/pause", "/ops/pause", "/webhook/autoscale", "/health/summary"):
            assert bank.client.post(path).status_code == 404 and bank.client.get(path).status_code == 404


def test_an_unavailable_component_affects_only_its_panel(bank: ComposedBank, browser: Browser) -> None:
    with LoadedPage(browser, bank.api_url) as loaded:
        loaded.waits_for("overall", "All systems operational")
        try:
            bank.compose("stop", "autoscale-service")
            loaded.waits_for("autoscaler", "✕ autoscale-service not responding")
            loaded.waits_until(lambda: loaded.text("overall") == "✕ autoscale-service not responding")
            loaded.waits_until(lambda: loaded.counts("rollout", "✕") == [0])
            bank.compose("stop", "rollout-service")
            loaded.waits_for("rollout", "✕ rollout-service not responding")
            loaded.waits_until(lambda: loaded.counts("services", "● ready") == [2])
        finally:
            bank.compose("start", *PARTS)
        loaded.waits_for("overall", "All systems operational")
