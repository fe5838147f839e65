"""Schemathesis holds the running service against its own OpenAPI document."""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import httpx
import pytest

from shared.testing.contract import assert_documented_methods, assert_conforms_to_openapi
from shared.testing.fixtures import SEARCH_FACTOR, Lab, serving
from shared.testing.timing import BUSY_SECONDS

# The service is another process, and what sends the requests need not be measured.
pytestmark = pytest.mark.no_cover
DOCUMENTED = {
    *("/api/v1/transactions", "/api/v1/transactions/{id}", "/api/v1/statements/{account_id}", "/api/v1/flags"),
    *("/api/v1/reconciliation", "/api/v1/webhooks", "/api/v1/webhooks/{id}", "/api/v1/webhooks/{id}/deliveries"),
}


class NoBalances(BaseHTTPRequestHandler):
    """A fake account-service: every page is empty."""

    def do_GET(self) -> None:
        content = b'{"items": [], "next_cursor": null}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments: object) -> None:
        """Suppress the request log."""


@pytest.fixture(scope="module")
def served(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a running transaction-service, with an account-service without accounts."""
    folder = tmp_path_factory.mktemp("contract")
    with ThreadingHTTPServer(("127.0.0.1", 0), NoBalances) as balances:
        Thread(target=balances.serve_forever, daemon=True).start()
        ledger = f"http://127.0.0.1:{balances.server_address[1]}"
        key = "a-key-of-the-bank-for-tests"
        with serving("transaction-service", folder, lab, ACCOUNT_SERVICE_URL=ledger, WEBHOOK_KEY=key) as url:
            yield url
        balances.shutdown()


# Hundreds of requests: more than a test has on a busy machine.
@pytest.mark.timeout(600 * SEARCH_FACTOR)
def test_the_api_conforms_to_its_openapi_document(served: str, lab: Lab) -> None:
    assert_conforms_to_openapi(f"{served}/docs/transaction-service/openapi.json", lab)


def test_every_route_of_the_contract_is_documented(served: str) -> None:
    document = httpx.get(f"{served}/docs/transaction-service/openapi.json", timeout=BUSY_SECONDS).json()
    assert set(document["paths"]) == DOCUMENTED
    assert_documented_methods(served, document)
