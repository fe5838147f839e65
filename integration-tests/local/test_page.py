"""The operations page on the embedded stack, in a browser; rollouts and autoscaler: compose/operations/test_page.py."""

import re
from collections.abc import Iterator

import pytest
from harness.browser import PHONE, Browser, LoadedPage, chromium
from harness.local_stack import LocalBank

SERVICES = ("account-service", "transaction-service")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this module."""
    with chromium() as browser:
        yield browser


def test_static_files_are_cached_for_a_minute_and_status_never(bank: LocalBank):
    cached = {
        "/": "text/html",
        "/ops/page.css": "text/css",
        "/ops/page.js": "text/javascript",
        "/ops/icon.svg": "image/",
    }
    for path, kind in cached.items():
        response = bank.client.get(path)
        assert response.status_code == 200 and response.headers["content-type"].startswith(kind)
        assert response.headers["cache-control"] == "public, max-age=60"
        unchanged = bank.client.get(path, headers={"If-None-Match": response.headers["etag"]})
        assert (unchanged.status_code, unchanged.content) == (304, b"")
    for path in ("/ops/edge.json", *(f"/ops/{service}.json" for service in SERVICES)):
        response = bank.client.get(path)
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
        assert response.headers["content-type"] == "application/json"
    for path in ("/ops/", "/ops/index.html", "/ops/autoscale-service.json", "/ops/account-service-canary.json"):
        response = bank.client.get(path)
        assert (response.status_code, response.headers["cache-control"]) == (404, "no-store")
    assert bank.client.post("/", content=b"x").status_code == 405


def test_the_page_reveals_nothing_that_requires_a_token(bank: LocalBank):
    account = bank.open_account(123_456)
    statuses = [bank.client.get(f"/ops/{name}.json").text for name in ("edge", *SERVICES)]
    everything = "".join(statuses) + bank.client.get("/ops/page.js").text + bank.client.get("/").text
    for secret in (
        account,
        "alice",
        "127.0.0.1",
        str(bank.stack.var_dir),
        bank.lab.service_token,
        "sqlite",
        "postgres",
    ):
        assert secret not in everything


def test_the_page_loads_only_from_this_bank_and_conforms_to_its_content_security_policy(
    bank: LocalBank, browser: Browser
):
    with LoadedPage(browser, bank.stack.api_url) as loaded:
        loaded.waits_for("overall", "All systems operational")
        replicas = len(bank.stack.processes["account-service"])
        version = bank.client.get("/docs/account-service/").headers["x-app-version"]
        shown = ("ready", version, f"{replicas}, fixed", "stable")
        loaded.waits_until(lambda: loaded.counts("services", *shown) == [2] * len(shown))
        loaded.waits_for("split", "All clients on stable")
        loaded.waits_for("rollout", "Rollouts are not available")
        loaded.waits_for("autoscaler", "Autoscaling is not available")
        assert loaded.errors == []
        assert len(loaded.requested_urls) >= 7 and all(
            url.startswith(f"{bank.stack.api_url}/") for url in loaded.requested_urls
        )
        loaded.page.click("text=Grafana")
        loaded.page.wait_for_url("**/#grafana")
        assert "Not available in this stack" in loaded.page.locator("#grafana").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 390, 1100])
def test_the_page_is_readable_on_any_screen(bank: LocalBank, browser: Browser, scheme: str, width: int):
    viewport = {**PHONE, "width": width}
    with LoadedPage(browser, bank.stack.api_url, color_scheme=scheme, viewport=viewport) as loaded:
        loaded.waits_for("overall", "All systems operational")
        assert loaded.low_contrast_texts() == [] and not loaded.overflows()
        ground = loaded.page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 384) == (scheme == "dark")


def test_the_page_is_accessible_to_screen_readers(bank: LocalBank, browser: Browser):
    with LoadedPage(browser, bank.stack.api_url) as loaded:
        loaded.waits_for("overall", "All systems operational")
        assert loaded.page.locator("html").get_attribute("lang") == "en" and loaded.page.title() == "Bank operations"
        for name in ("Services", "Traffic", "Rollout", "Autoscaler", "Links"):
            assert loaded.page.get_by_role("region", name=name).count() == 1
        assert loaded.page.get_by_role("heading", level=1).count() == 1
        assert "All systems operational" in loaded.page.get_by_role("status").inner_text()


def test_without_javascript_the_page_explains_and_links(bank: LocalBank, browser: Browser):
    with LoadedPage(browser, bank.stack.api_url, java_script_enabled=False) as loaded:
        text = loaded.page.inner_text("body")
        assert "Current status of this bank" in text and "rolled back automatically" in text
        links = [link.get_attribute("href") for link in loaded.page.get_by_role("link").all()]
        assert len(links) == 9
        # The two services that this stack lacks return a problem document.
        found = {link: bank.client.get(str(link)).status_code for link in links}
        absent = {"/ops/rollout-service.json", "/ops/autoscale-service.json"}
        assert {link for link, status in found.items() if status not in (200, 302)} == absent


def test_an_unavailable_service_is_named_and_the_rest_still_updates(bank: LocalBank, browser: Browser):
    with LoadedPage(browser, bank.stack.api_url) as loaded:
        loaded.waits_for("overall", "All systems operational")
        for index in range(len(bank.stack.processes["transaction-service"])):
            bank.stack.kill("transaction-service", index)
        try:
            loaded.waits_until(lambda: loaded.counts("services", "ready", "not responding") == [1, 1])
            loaded.waits_until(lambda: loaded.text("overall") == "✕ transaction-service not responding")
            loaded.waits_for("split", "All clients on stable")
        finally:
            for index in range(len(bank.stack.processes["transaction-service"])):
                bank.stack.restart("transaction-service", index)
        loaded.waits_for("overall", "All systems operational")


def test_a_rollout_shows_the_outcomes_of_both_versions(bank: LocalBank, browser: Browser):
    shares = [("success", 0.5, 0.95), ("404 not-found GET /api/v1/accounts/{id}", 0.5, 0.05)]
    rows = [{"outcome": name, "canary": own, "stable": other} for name, own, other in shares]
    state = {
        **{"phase": "canary", "release": "v2", "steps": [10, 50], "step": 0, "weight": 10, "serving": "stable"},
        **{"service": "rollout-service", "track": "stable", "ready": True, "failing": [], "outcome": "", "history": []},
        "verdict": {"verdict": "hold", "reason": "outcomes"},
        "outcomes": [
            *({"service": "account-service", **row} for row in rows),
            {"service": "transactions", "outcome": "success", "canary": None, "stable": 1},
        ],
    }
    with LoadedPage(browser, bank.stack.api_url, viewport={**PHONE, "width": 320}) as loaded:
        loaded.waits_for("overall", "All systems operational")
        edge = {**bank.client.get("/ops/edge.json").json(), "parts": ["rollout-service"], "revision": "previous"}
        loaded.page.route("**/ops/edge.json", lambda route: route.fulfill(json=edge))
        loaded.page.route("**/ops/rollout-service.json", lambda route: route.fulfill(json=state))
        loaded.waits_for("rollout", "Outcomes in this step")
        table = loaded.page.get_by_role("table", name="Outcomes in this step")
        assert [line.split("\t") for line in table.inner_text().splitlines()[1:]] == [
            ["outcome", "canary", "stable"],
            ["account-service"],
            ["success", "50.0 %", "95.0 %"],
            ["404 not-found GET /api/v1/accounts/{id}", "50.0 %", "5.0 %"],
            ["transactions"],
            ["success", "–", "100.0 %"],
        ]
        loaded.waits_for("split", "NGINX serves the previous version.")
        assert not loaded.overflows() and loaded.low_contrast_texts() == [] and loaded.errors == []


def test_a_page_that_loses_its_connection_keeps_the_last_status_and_says_so(bank: LocalBank, browser: Browser):
    with LoadedPage(browser, bank.stack.api_url) as loaded:
        loaded.waits_for("overall", "All systems operational")
        loaded.connected = False
        loaded.waits_for("overall", "NGINX not responding; the values below are outdated")
        assert loaded.counts("services", "● ready") == [2]
        loaded.connected = True
        loaded.waits_for("overall", "All systems operational")
