"""The contract: the service conforms to its OpenAPI document, and its events to their schemas."""

import json
import random
import time
from collections.abc import Iterator

import httpx
import jsonschema
import pytest

from shared.events import OF_TRANSACTION_SERVICE
from shared.testing.paths import ROOT
from shared.testing.contract import assert_documented_methods, assert_conforms_to_openapi, follow_links
from shared.http.idempotency import parse_key
from shared.http.problems import Problem
from shared.testing.fixtures import SEARCH_FACTOR, Lab, examples, serving
from shared.testing.timing import BUSY_SECONDS
from tests.support import key_header

DOCUMENTED = {
    *("POST /api/v1/accounts", "GET /api/v1/accounts", "GET /api/v1/accounts/{id}", "GET /api/v1/audit"),
    *("POST /api/v1/accounts/{id}/deposits", "POST /api/v1/accounts/{id}/withdrawals"),
    *("POST /api/v1/transfers", "POST /api/v1/transfers:batch", "POST /api/v1/reversals"),
    *("POST /api/v1/transaction-groups", "POST /api/v1/transaction-groups/{id}/reversals"),
    *("POST /api/v1/accounts/{id}/holds", "POST /api/v1/holds/{id}/captures", "POST /api/v1/holds/{id}/voids"),
    *("GET /api/v1/accounts/{id}/balance", "GET /api/v1/transactions/{id}/proof"),
    *("GET /api/v1/ledger/roots", "GET /api/v1/ledger/consistency"),
    *("GET /api/v1/accounts/{id}/holds", "GET /api/v1/holds/{id}", "POST /api/v1/holds/{id}/extensions"),
    "POST /api/v1/accounts/{id}/limits",
    *("POST /api/v1/accounts/{id}/freeze", "POST /api/v1/accounts/{id}/unfreeze", "POST /api/v1/accounts/{id}/close"),
}
# The service runs in another process; coverage of the client is of no interest.
pytestmark = pytest.mark.no_cover
KEYLESS = ("/freeze", "/unfreeze", "/close", "/limits")


@pytest.fixture(scope="module")
def served(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a running account-service."""
    key = str(lab.secrets.ledger_key)
    with serving("account-service", tmp_path_factory.mktemp("contract"), lab, LEDGER_SIGNING_KEY_FILE=key) as url:
        yield url


@pytest.fixture(scope="module")
def client(served: str, lab: Lab) -> Iterator[httpx.Client]:
    """A client with all permissions."""
    with httpx.Client(base_url=served, headers=lab.operator(), timeout=BUSY_SECONDS) as client:
        yield client


def create(client: httpx.Client, path: str, **body: object) -> str:
    """Create a resource and return its id."""
    response = client.post(f"/api/v1/{path}", json=body, headers=key_header())
    assert response.status_code == 201, response.text
    identifier: str = response.json()["id"]
    return identifier


# Hundreds of requests may exceed the default timeout on a busy machine.
@pytest.mark.timeout(600 * SEARCH_FACTOR)
def test_the_service_conforms_to_its_openapi_document(served: str, client: httpx.Client, lab: Lab) -> None:
    accounts = [create(client, "accounts", currency="USD") for _ in range(20)]
    originals = [create(client, f"accounts/{id_}/deposits", amount=10**12, currency="USD") for id_ in accounts]
    holds = [create(client, f"accounts/{accounts[0]}/holds", amount=100, currency="USD") for _ in range(40)]
    existing = {"transaction_id": originals, "from_account": accounts, "to_account": accounts, "id": accounts + holds}
    chance = random.Random(1)

    def replace(name: str, value: str) -> str:
        return chance.choice(existing[name]) if chance.random() < 0.7 else value

    assert_conforms_to_openapi(f"{served}/docs/account-service/openapi.json", lab, replace=replace)


@pytest.mark.timeout(240 * SEARCH_FACTOR)
def test_openapi_links_lead_to_their_operations(served: str, lab: Lab) -> None:
    walked = follow_links(f"{served}/docs/account-service/openapi.json", lab, walks=examples(12), length=10)
    assert walked.linked > 10 and walked.answers[201] > 1, walked


def test_every_route_is_documented_completely(served: str, client: httpx.Client) -> None:
    document = client.get("/docs/account-service/openapi.json").json()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert operations.keys() == DOCUMENTED
    for name, operation in operations.items():
        assert operation["security"] and {"401", "500", "503"} <= operation["responses"].keys(), name
        parameters = {parameter["name"]: parameter["required"] for parameter in operation.get("parameters", [])}
        assert parameters.get("id", False) == ("{id}" in name), name
        changes = name.startswith("POST")
        assert parameters.get("Idempotency-Key", False) == (changes and not name.endswith(KEYLESS)), name
        assert ("requestBody" in operation) == changes, name
    assert_documented_methods(served, document)


def test_events_conform_to_their_schemas(client: httpx.Client, lab: Lab) -> None:
    account, other = (create(client, "accounts", currency="USD") for _ in range(2))
    deposit = create(client, f"accounts/{account}/deposits", amount=100, currency="USD", reference="salary")
    create(client, "transfers", from_account=account, to_account=other, amount=1, currency="USD")
    for action in ("voids", "captures"):
        create(client, f"holds/{create(client, f'accounts/{account}/holds', amount=5, currency='USD')}/{action}")
    create(client, f"accounts/{account}/holds", amount=5, currency="USD", expires_in=1)
    extended = create(client, f"accounts/{account}/holds", amount=5, currency="USD", expires_in=60)
    create(client, f"holds/{extended}/extensions", expires_in=120)
    refused = {"transaction_id": deposit}
    assert client.post("/api/v1/reversals", json=refused, headers=key_header()).status_code == 409
    empty = create(client, "accounts", currency="USD")
    for action in ("freeze", "unfreeze", "close"):
        assert client.post(f"/api/v1/accounts/{empty}/{action}").status_code == 200
    limits = {"overdraft_limit": 100, "daily_debit_limit": None}
    assert client.post(f"/api/v1/accounts/{account}/limits", json=limits).status_code == 200

    folder = ROOT / "shared" / "schemas"
    expected = {file.stem for file in folder.glob("*.json")} - OF_TRANSACTION_SERVICE
    seen: set[str] = set()
    position = "0"
    own = {"Authorization": f"Bearer {lab.service_token}"}
    deadline = time.monotonic() + BUSY_SECONDS
    while not expected <= seen:
        assert time.monotonic() < deadline, f"no event of type {expected - seen}"
        response = client.get(f"/internal/events?after={position}&limit=1000&wait=5", headers=own)
        position = response.headers["x-next-position"]
        for event in response.json():
            schema = json.loads((folder / f"{event['type']}.json").read_text(encoding="utf-8"))
            jsonschema.validate(event, schema, format_checker=jsonschema.FormatChecker())
            seen.add(event["type"])


@pytest.mark.parametrize(
    "key", ["a", '"a b"', "a b", 'a"b', '"a"b"', "~" * 255, "~" * 256, f'"{"~" * 255}"', "", '""', "é"]
)
def test_the_documented_key_pattern_matches_the_parser(client: httpx.Client, key: str) -> None:
    document = client.get("/docs/account-service/openapi.json").json()
    parameters = document["paths"]["/api/v1/transfers"]["post"]["parameters"]
    (schema,) = (parameter["schema"] for parameter in parameters if parameter["name"] == "Idempotency-Key")
    try:
        accepted = bool(parse_key(key))
    except Problem:
        accepted = False
    assert jsonschema.Draft202012Validator(schema).is_valid(key) == accepted
