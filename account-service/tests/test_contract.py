"""Schemathesis holds the running service against its own OpenAPI document."""

from collections.abc import Iterator

import httpx
import pytest

from shared.contract import hold_to_its_document
from shared.testing import Lab, serving

DOCUMENTED = {
    *(
        "/api/v1/accounts",
        "/api/v1/accounts/{id}",
        "/api/v1/accounts/{id}/deposits",
        "/api/v1/accounts/{id}/withdrawals",
    ),
    *("/api/v1/transfers", "/api/v1/transfers:batch", "/api/v1/reversals", "/api/v1/accounts/{id}/holds"),
    *("/api/v1/holds/{id}/captures", "/api/v1/holds/{id}/voids", "/api/v1/accounts/{id}/freeze"),
    *("/api/v1/accounts/{id}/unfreeze", "/api/v1/accounts/{id}/close"),
}


@pytest.fixture(scope="module")
def served(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running account-service."""
    with serving("account-service", tmp_path_factory.mktemp("contract"), lab) as url:
        yield url


def test_the_service_does_what_its_document_says(served: str, lab: Lab) -> None:
    hold_to_its_document(f"{served}/docs/account-service/openapi.json", lab)


def test_every_route_of_the_contract_is_documented(served: str) -> None:
    paths = httpx.get(f"{served}/docs/account-service/openapi.json").json()["paths"]
    assert set(paths) == DOCUMENTED
