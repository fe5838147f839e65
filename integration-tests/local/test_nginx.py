"""What NGINX lets through, and what it says itself."""

import json
import socket
from urllib.parse import quote

import httpx
import pytest
from harness.local_stack import LocalBank
from harness.client import REQUEST_SECONDS, eventually, usd


def raw(bank: LocalBank, request: bytes) -> str:
    """Send bytes as they are and return the beginning of the answer."""
    with socket.create_connection(("127.0.0.1", bank.stack.http_port), timeout=REQUEST_SECONDS) as connection:
        connection.sendall(request)
        return connection.recv(65536).decode("latin1")


@pytest.mark.parametrize(
    "path",
    [
        *("/metrics", "/health/ready", "/internal/events?after=0", "/internal/balances", "/nowhere", "/health/summary"),
        *("/api/v1/../../internal/events", "//internal/events", "/api//v1/accounts", "/api/v1/accounts/..%2f..%2f"),
        *("/api/v1/%2e%2e/%2e%2e/metrics", "/api/v1/transactions/..;/internal/events", "/docs/../internal/balances"),
        *("/api/v1/accounts/%00", "/API/V1/accounts", "/api/v1/accountsX", "/docs/account-service/../../metrics"),
    ],
)
def test_nothing_internal_is_routed(bank: LocalBank, path: str):
    token = f"Authorization: Bearer {bank.lab.service_token}\r\n".encode()
    response = raw(
        bank, b"GET " + path.encode() + b" HTTP/1.1\r\nHost: bank\r\n" + token + b"Connection: close\r\n\r\n"
    )
    status = int(response.split(" ", 2)[1])
    assert status in (400, 401, 404), response
    assert "application/problem+json" in response and "specversion" not in response and "# HELP" not in response


def test_every_response_has_each_header_once(bank: LocalBank):
    responses = [
        bank.client.get("/api/v1/accounts", headers={**bank.headers("alice"), "X-Request-ID": "mine-7"}),
        bank.client.get("/nowhere", headers={"X-Request-ID": "mine-7"}),
        bank.client.get("/api/v1/accounts", headers={"X-Request-ID": "mine-7"}),
    ]
    assert [response.status_code for response in responses] == [200, 404, 401]
    for response in responses:
        assert response.headers.get_list("x-request-id") == ["mine-7"]
        assert response.headers.get_list("x-content-type-options") == ["nosniff"]
        assert response.headers.get_list("x-frame-options") == ["DENY"]
    assert responses[0].headers["x-app-track"] == "stable" and responses[0].headers["x-app-version"]
    assert responses[1].json()["request_id"] == "mine-7"


def test_all_logs_have_the_request_id_and_no_token(bank: LocalBank):
    account = bank.open_account()
    headers = {**bank.headers("alice"), "Idempotency-Key": f"log-{account}", "X-Request-ID": f"log-{account}"}
    bank.client.post(f"/api/v1/accounts/{account}/deposits", json=usd(5), headers=headers)
    folder = bank.stack.var_dir

    def read(pattern: str) -> str:
        return "".join(path.read_text() for path in folder.glob(pattern))

    # The line is written once the answer is out.
    eventually(lambda: f"log-{account}" in read("log/account-service-*.log"))
    eventually(lambda: f"log-{account}" in read("nginx/access.log"))
    token = headers["Authorization"].split()[1]
    everything = read("log/*") + read("nginx/*.log")
    assert token not in everything and bank.lab.service_token not in everything


EVIL = [
    'x","level":"ERROR","forged":"',
    "\x1b[2J\x1b[31mforged",
    "%0d%0aforged",
    "\\u000aforged",
    "\u2028forged",
    "a\r\nforged",
]


@pytest.mark.parametrize("through_nginx", [True, False])
def test_client_input_cannot_forge_log_lines(bank: LocalBank, through_nginx: bool):
    account = bank.open_account(100)
    logs = [*bank.stack.var_dir.glob("log/*-service-*.log"), bank.stack.var_dir / "nginx" / "access.log"]
    before = {log: log.stat().st_size for log in logs}
    base = bank.stack.api_url if through_nginx else bank.stack.urls("account-service")[0]
    marker = f"end-of-{account}-{through_nginx}"
    with httpx.Client(base_url=base, timeout=REQUEST_SECONDS) as client:
        for evil in EVIL:
            header = evil.replace("\r\n", " ").encode()
            forged = {name: header for name in ("X-Request-ID", "User-Agent", "traceparent", "X-Client-ID")}
            for body in ({"reference": evil}, {"reference": "ok", evil: 1}, {"currency": evil}):
                headers = {**bank.headers("alice"), **forged, "Idempotency-Key": marker + str(len(str(body)))}
                client.post(f"/api/v1/accounts/{account}/withdrawals", json={**usd(1), **body}, headers=headers)
            client.get(f"/api/v1/accounts/{quote(evil)}", headers={**bank.headers("alice"), **forged})
        client.get("/api/v1/nothing", headers={"X-Request-ID": marker})

    def written() -> list[str]:
        # Whole lines: the end of another may be on its way.
        return [line for log in logs for line in log.read_bytes()[before[log] :].decode().split("\n")[:-1]]

    eventually(lambda: any(marker in line for line in written()))
    for line in written():
        entry = json.loads(line)
        assert not any("forged" in key for key in entry) and "\x1b" not in line, line
        assert {"timestamp", "service", "request_id"} <= entry.keys()


def test_clients_cannot_set_version_headers(bank: LocalBank):
    forged = {"X-App-Track": "canary", "X-App-Version": "9", "X-Canary": "always"}
    response = bank.client.get("/api/v1/accounts", headers={**bank.headers("alice"), **forged})
    assert response.headers.get_list("x-app-track") == ["stable"] and response.headers.get_list("x-app-version") != [
        "9"
    ]


def test_large_and_broken_requests(bank: LocalBank):
    headers = {**bank.headers("alice"), "Idempotency-Key": "big"}
    response = bank.client.post("/api/v1/transfers", content=b"x" * 2_000_000, headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "payload-too-large")
    assert response.headers["content-type"] == "application/problem+json"
    for request in (b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n"):
        answer_text = raw(bank, request)
        assert " 400 " in answer_text and "application/problem+json" in answer_text
    long = bank.client.get("/api/v1/accounts?x=" + "y" * 40_000)
    assert (long.status_code, long.headers["content-type"]) == (414, "application/problem+json")


def test_swagger_loads_nothing_from_elsewhere(bank: LocalBank):
    for service in ("account-service", "transaction-service"):
        page = bank.client.get(f"/docs/{service}/")
        assert page.status_code == 200 and "http://" not in page.text and "https://" not in page.text
        assert bank.client.get(f"/docs/{service}/assets/swagger-ui-bundle.js").status_code == 200
        document = bank.client.get(f"/docs/{service}/openapi.json").json()
        assert document["info"]["title"] == service
        redirect = bank.client.get(f"/docs/{service}", follow_redirects=True)
        assert redirect.url == httpx.URL(f"{bank.stack.api_url}/docs/{service}/")


def test_unknown_input_is_rejected_through_nginx(bank: LocalBank):
    account = bank.open_account(100)
    path, key = f"/api/v1/accounts/{account}/withdrawals", ("Idempotency-Key", f"strict-{account}")
    headers = [*bank.headers("alice").items(), ("Content-Type", "application/json"), key]
    twice = bank.client.post(path, json=usd(1), headers=[*headers, ("Idempotency-Key", "other")])
    other_type = bank.client.post(path, content=b"{}", headers={**dict(headers), "Content-Type": "text/plain"})
    double = bank.client.post(path, content=b'{"amount": 1, "amount": 2, "currency": "USD"}', headers=headers)
    misspelt = bank.client.get("/api/v1/transactions?acount_id=x", headers=bank.headers("alice"))
    assert [one.status_code for one in (twice, other_type, double, misspelt)] == [400, 415, 400, 422]
    assert bank.client.get(f"/api/v1/accounts/{account}", headers=bank.headers("alice")).json()["balance"] == 100


def test_every_problem_type_has_a_page(bank: LocalBank):
    problem = bank.client.get("/nowhere").json()
    page = bank.client.get(problem["type"], headers={"Accept": "text/html"})
    assert (
        page.status_code == 200 and "What to do" in page.text and page.headers["content-type"].startswith("text/html")
    )
    assert bank.client.get("/problems/tls-required").status_code == 200
    assert bank.client.get("/problems/no-such-problem").status_code == 404
    head = bank.client.head("/api/v1/transactions", headers=bank.headers("alice"))
    assert (head.status_code, head.content) == (200, b"") and int(head.headers["content-length"]) > 0
