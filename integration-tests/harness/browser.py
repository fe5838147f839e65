"""Headless Chromium for the tests of the operations page."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness.client import WAIT_SECONDS
from playwright.sync_api import Browser, Error, Page, Route, sync_playwright

PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1100, "height": 800}

_FAILED_POLL = re.compile("Failed to load resource: (the server responded with a status of 50[234]|net::ERR_)")

# Returns visible texts whose contrast to the background is below 4.5, the minimum of WCAG 2 AA.
_LOW_CONTRAST_SCRIPT = """() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const light = (colour) => rgb(colour).slice(0, 3).map((one) => one / 255)
    .map((one) => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4)
    .reduce((sum, one, index) => sum + one * [0.2126, 0.7152, 0.0722][index], 0);
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return rgb(colour)[3] === 0 && element.parentElement ? behind(element.parentElement) : colour;
  };
  return [...document.querySelectorAll("body *")]
    .filter((one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()))
    .filter((one) => one.checkVisibility())
    .map((one) => [light(getComputedStyle(one).color), light(behind(one)), one.textContent])
    .map(([front, back, text]) => [(Math.max(front, back) + 0.05) / (Math.min(front, back) + 0.05), text])
    .filter(([contrast]) => contrast < 4.5);
}"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start Debian's Chromium; skip the test, with a reason, if it is not installed."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed; on Debian: apt-get install chromium")
    # The sandbox does not work as root, and a container has little shared memory.
    arguments = ["--disable-dev-shm-usage"] + (["--no-sandbox"] if os.geteuid() == 0 else [])
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=arguments, timeout=2 * WAIT_SECONDS * 1000)
        yield browser
        browser.close()


class LoadedPage:
    """A page with the errors that the browser reported; `options` are those of a browser context.

    With `connected` false, the page's requests fail.
    """

    def __init__(self, browser: Browser, url: str, **options: Any) -> None:
        self._context = browser.new_context(base_url=url, **{"viewport": DESKTOP, **options})
        self._context.set_default_timeout(WAIT_SECONDS * 1000)
        self._context.route("**/*", self._fetch)
        self.connected = True
        self.page: Page = self._context.new_page()
        self.errors: list[str] = []
        self.requested_urls: list[str] = []
        self.page.on("console", lambda message: self._record_error(message.type, message.text))
        self.page.on("pageerror", lambda error: self._record_error("error", str(error)))
        self.page.on("request", lambda request: self.requested_urls.append(request.url))

    def _fetch(self, route: Route) -> None:
        """Send a request for the browser.

        Chromium aborts its own requests with ERR_NETWORK_CHANGED whenever a container starts or stops.
        """
        try:
            if self.connected:
                route.fulfill(response=route.fetch(max_redirects=0))
                return
        except Error:
            pass
        route.abort("connectionfailed")

    def _record_error(self, kind: str, text: str) -> None:
        # The page itself shows a poll that failed, which on a busy machine one may.
        if kind in ("error", "warning") and not _FAILED_POLL.search(text):
            self.errors.append(text)

    def __enter__(self) -> "LoadedPage":
        self.page.goto("/")
        return self

    def __exit__(self, *_error: object) -> None:
        # A request may be in flight.
        self._context.unroute_all(behavior="ignoreErrors")
        self._context.close()

    def waits_until(self, condition: Callable[[], bool], seconds: float = 2 * WAIT_SECONDS) -> None:
        """Wait until the page shows what it has to: one poll of a busy service may fail. Fail if it never does."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.page.inner_text("body")
            # Not time.sleep: the browser's requests are answered meanwhile.
            self.page.wait_for_timeout(100)

    def waits_for(self, panel: str, text: str, seconds: float = 2 * WAIT_SECONDS) -> str:
        """Return a panel's text once it contains some; fail if it never does."""
        element = self.page.locator(f"#{panel}")
        element.filter(has_text=text).wait_for(timeout=seconds * 1000)
        return element.inner_text()

    def text(self, panel: str) -> str:
        """Return a panel's text."""
        return self.page.inner_text(f"#{panel}")

    def counts(self, panel: str, *words: str) -> list[int]:
        """Return how often each word is in a panel now."""
        text = self.text(panel)
        return [text.count(word) for word in words]

    def low_contrast_texts(self) -> list[Any]:
        """Return the texts with too little contrast, and their contrast."""
        found: list[Any] = self.page.evaluate(_LOW_CONTRAST_SCRIPT)
        return found

    def overflows(self) -> bool:
        """Return whether the page scrolls horizontally."""
        return bool(self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))

    def picture(self, file: Path) -> None:
        """Save a screenshot of the whole page."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=file, full_page=True)
