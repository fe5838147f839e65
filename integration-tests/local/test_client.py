"""The Python client: what it repeats and for how long, and one transfer although the bank dies between tries."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import banking_client.client as client_module
import httpx
import pytest
from banking_client import BankingClient, NoResponseError, ProblemError
from banking_client.api import account_service as accounts
from banking_client.api import transaction_service as history
from banking_client.models import Metadata, TransferBody
from harness.client import WAIT_SECONDS, eventually
from harness.local_stack import LocalBank

from shared.testing.local_stack import ACCOUNT
from shared.testing.timing import StoppedClock

BODY = TransferBody(from_account="a", to_account="b", amount=7, currency="USD")
POSTED = {
    **{"id": "t", "type": "transfer", "status": "posted", "amount": 7, "currency": "USD", "reference": None},
    **{"from_account": "a", "to_account": "b", "reverses": None, "entries": [], "added_later": 1},
    "created_at": "2026-11-29T12:00:00Z",
}
OK = httpx.Response(201, json=POSTED)


def problem(status: int, code: str, **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"code": code, "detail": "Why."}, headers=headers)


Outcome = httpx.Response | httpx.TransportError


class FakeBank:
    """Answers the requests with these outcomes, the last one repeatedly, and records them."""

    def __init__(self, *outcomes: Outcome) -> None:
        self.outcomes = outcomes
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        outcome = self.outcomes[min(len(self.requests), len(self.outcomes)) - 1]
        if isinstance(outcome, Exception):
            raise outcome
        return httpx.Response(outcome.status_code, headers=outcome.headers, content=outcome.content)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> StoppedClock:
    """The client's clock, which its pauses advance."""
    stopped = StoppedClock()
    monkeypatch.setattr(client_module, "time", stopped)
    return stopped


def connect(bank: FakeBank, timeout_seconds: float = 60) -> BankingClient:
    """Return a client of a fake bank, which holds no connections."""
    return BankingClient("http://bank", "t0", timeout_seconds=timeout_seconds, transport=httpx.MockTransport(bank))


@pytest.mark.parametrize(
    ("outcome", "seconds"),
    [
        (problem(429, "rate-limited", **{"Retry-After": "7"}), 7),
        (problem(503, "unavailable", **{"Retry-After": "2"}), 2),
        (problem(409, "request-in-progress", **{"Retry-After": "1"}), 1),
        (problem(500, "internal-error"), 0),
        (httpx.Response(502, html="<h1>Bad Gateway</h1>"), 0),
        (httpx.Response(503, headers={"Retry-After": "Sun, 29 Nov 2026 12:00:00 GMT"}), 0),
        (httpx.ConnectError("refused"), 0),
        (httpx.ReadTimeout("silent"), 0),
        (httpx.RemoteProtocolError("cut"), 0),
    ],
    ids=str,
)
def test_a_failed_try_is_repeated_with_the_same_key_and_body(clock: StoppedClock, outcome: Outcome, seconds: int):
    begun = clock.now
    bank = FakeBank(outcome, outcome, OK)
    assert accounts.transfer(connect(bank), body=BODY).id == "t"
    assert 2 * seconds <= clock.now - begun < 2 * seconds + 1
    assert len(bank.requests) == 3
    assert len({(request.headers["Idempotency-Key"], request.content) for request in bank.requests}) == 1
    accounts.transfer(connect(bank), body=BODY)
    assert bank.requests[3].headers["Idempotency-Key"] != bank.requests[0].headers["Idempotency-Key"]


@pytest.mark.parametrize("status_and_code", [(409, "insufficient-funds"), (422, "same-account"), (401, "unauthorized")])
def test_a_refused_request_is_sent_once(clock: StoppedClock, status_and_code: tuple[int, str]):
    bank = FakeBank(problem(*status_and_code))
    with pytest.raises(ProblemError, match="Why.") as refused:
        accounts.transfer(connect(bank), body=BODY, idempotency_key="mine")
    assert (refused.value.status, refused.value.code) == status_and_code
    assert [request.headers["Idempotency-Key"] for request in bank.requests] == ["mine"]


def test_tries_end_with_the_time(clock: StoppedClock):
    begun = clock.now
    bank = FakeBank(problem(503, "unavailable"))
    with pytest.raises(NoResponseError, match="Idempotency-Key mine") as failed:
        accounts.transfer(connect(bank), body=BODY, idempotency_key="mine")
    assert 50 < clock.now - begun < 60 and 10 < len(bank.requests) < 40
    assert failed.value.idempotency_key == "mine"
    assert isinstance(failed.value.__cause__, ProblemError) and failed.value.__cause__.code == "unavailable"


def test_no_try_waits_longer_than_the_time_that_is_left(clock: StoppedClock):
    bank = FakeBank(problem(503, "unavailable", **{"Retry-After": "40"}), OK)
    accounts.transfer(connect(bank), body=BODY)
    first, second = (request.extensions["timeout"]["read"] for request in bank.requests)
    assert first == 30 and 19 < second <= 20


def test_a_pause_beyond_the_time_is_not_begun(clock: StoppedClock):
    begun = clock.now
    with pytest.raises(NoResponseError):
        accounts.transfer(connect(FakeBank(problem(429, "rate-limited", **{"Retry-After": "61"}))), body=BODY)
    assert clock.now == begun


def test_a_post_without_a_key_is_sent_once(clock: StoppedClock):
    bank = FakeBank(problem(503, "unavailable"))
    with pytest.raises(ProblemError, match="503 unavailable"):
        accounts.freeze(connect(bank), "a")
    assert len(bank.requests) == 1 and "Idempotency-Key" not in bank.requests[0].headers
    bank = FakeBank(httpx.ReadError("cut"))
    with pytest.raises(NoResponseError, match="check its effect") as failed:
        accounts.freeze(connect(bank), "a")
    assert len(bank.requests) == 1 and failed.value.idempotency_key == ""


def test_a_request_of_ones_own_is_repeated_if_it_has_a_key(clock: StoppedClock):
    bank = FakeBank(httpx.ReadTimeout("silent"), OK)
    connect(bank).request("POST", "/api/v1/transfers", headers={"idempotency-key": "mine"}, json={"amount": 7})
    assert [request.content for request in bank.requests] == [b'{"amount":7}'] * 2


def test_reads_are_repeated_and_use_the_current_token(clock: StoppedClock):
    bank = FakeBank(httpx.ConnectError("refused"), httpx.Response(200, json={"items": [], "next_cursor": None}))
    client = connect(bank)
    assert accounts.list_accounts(client).items == []
    client.token = "t1"
    accounts.list_accounts(client)
    assert [request.headers["Authorization"] for request in bank.requests] == ["Bearer t0"] * 2 + ["Bearer t1"]


def test_a_wrong_url_is_reported_at_once(clock: StoppedClock):
    with BankingClient("bank", "t0") as client, pytest.raises(httpx.UnsupportedProtocol):
        accounts.list_accounts(client)


def test_an_error_that_is_not_the_banks_is_reported():
    with pytest.raises(ProblemError, match="418 : <h1>No</h1>") as refused:
        accounts.list_accounts(connect(FakeBank(httpx.Response(418, html="<h1>No</h1>"))))
    assert (refused.value.code, refused.value.title) == ("", "I'm a teapot")


# On a real bank -------------------------------------------------------------------------------------------------------


class InterruptedTransport(httpx.BaseTransport):
    """Lets the bank execute the first request, but kills account-service before the client gets the response.

    After the second try, which fails, account-service starts again.
    """

    def __init__(self, bank: LocalBank) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.statuses: list[int] = []
        self._bank = bank
        self._transport = httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.headers["Idempotency-Key"], request.read()))
        response = self._transport.handle_request(request)
        self.statuses.append(response.status_code)
        response.read()
        if len(self.sent) == 1:
            self._for_each_replica(self._bank.stack.kill)
            raise httpx.ReadError("connection reset")
        if len(self.sent) == 2:
            self._for_each_replica(self._bank.stack.restart)
        return response

    def _for_each_replica(self, action: Callable[[str, int], None]) -> None:
        for index in range(self._bank.stack.settings[ACCOUNT].replicas):
            action(ACCOUNT, index)

    def close(self) -> None:
        self._transport.close()


def token(bank: LocalBank) -> str:
    return bank.headers("alice")["Authorization"].removeprefix("Bearer ")


def test_one_transfer_is_posted_although_the_bank_dies_between_tries(bank: LocalBank):
    source, target = bank.open_account(1000), bank.open_account()
    body = TransferBody(from_account=source, to_account=target, amount=7, currency="USD", reference="rent")
    body.metadata = Metadata.from_dict({"invoice": "2026-11"})
    transport = InterruptedTransport(bank)
    with BankingClient(bank.api_url, token(bank), timeout_seconds=5 * WAIT_SECONDS, transport=transport) as client:
        posted = accounts.transfer(client, body=body)
        assert transport.statuses[0] == transport.statuses[-1] == 201 and transport.statuses[1] in (502, 503)
    assert len(set(transport.sent)) == 1
    assert (posted.amount, posted.reference, posted.metadata) == (7, "rent", body.metadata)
    with BankingClient(bank.api_url, token(bank), timeout_seconds=WAIT_SECONDS) as client:
        assert accounts.get_account(client, target).balance == 7
        [shown] = eventually(lambda: history.list_transactions(client, account_id=target).items)
        assert (shown.id, shown.created_at) == (posted.id, posted.created_at)


def test_concurrent_operations_with_one_key_return_the_same_transfer(bank: LocalBank):
    source, target = bank.open_account(1000), bank.open_account()
    body = TransferBody(from_account=source, to_account=target, amount=7, currency="USD")
    with (
        BankingClient(bank.api_url, token(bank), timeout_seconds=WAIT_SECONDS) as client,
        ThreadPoolExecutor(20) as pool,
    ):
        key = f"client-{source}"
        posted = pool.map(lambda _: accounts.transfer(client, body=body, idempotency_key=key), range(20))
        assert len({transaction.id for transaction in posted}) == 1
        assert bank.balance(target) == 7


def test_an_outage_beyond_the_time_ends_with_the_key_to_repeat_with(bank: LocalBank):
    source, target = bank.open_account(1000), bank.open_account()
    body = TransferBody(from_account=source, to_account=target, amount=7, currency="USD")
    replicas = range(bank.stack.settings[ACCOUNT].replicas)
    with BankingClient(bank.api_url, token(bank), timeout_seconds=0.5) as client:
        for index in replicas:
            bank.stack.kill(ACCOUNT, index)
        with pytest.raises(NoResponseError) as failed:
            accounts.transfer(client, body=body)
    for index in replicas:
        bank.stack.restart(ACCOUNT, index)
    with BankingClient(bank.api_url, token(bank), timeout_seconds=WAIT_SECONDS) as client:
        for _ in range(2):
            accounts.transfer(client, body=body, idempotency_key=failed.value.idempotency_key)
    assert bank.balance(target) == 7


def test_a_refusal_has_the_members_of_the_problem(bank: LocalBank):
    source, target = bank.open_account(1000), bank.open_account()
    body = TransferBody(from_account=source, to_account=target, amount=1001, currency="USD")
    with BankingClient(bank.api_url, token(bank)) as client, pytest.raises(ProblemError) as refused:
        accounts.transfer(client, body=body)
    error = refused.value
    assert (error.status, error.code, error.type) == (409, "insufficient-funds", "/problems/insufficient-funds")
    assert error.title == "Insufficient funds" and "10.00 USD" in error.detail
    assert error.instance == "/api/v1/transfers" and error.request_id
