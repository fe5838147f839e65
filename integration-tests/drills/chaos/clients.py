"""The clients of the drill `faults`: they send their planned requests and record every response.

Separate from harness/load.py, because each planned request has its own retry policy, is sent during a given fault, and
is recorded for the history checker. The effect of a failed attempt is unknown.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
from drills.chaos.fault_plan import ACCOUNTS, OPENING_BALANCE, Plan, PlannedRequest, RetryPolicy
from drills.chaos.history_checker import ACKNOWLEDGED, CAPTURE_KINDS, REFUSED, UNKNOWN, Operation
from harness.client import Bank, usd

_LONG_TIMEOUT_SECONDS, _SHORT_TIMEOUT_SECONDS = 15.0, 0.25
# A request without a final response within this time is a violation.
_MAX_RETRY_SECONDS = 180.0
_RETRIED_STATUSES = (401, 429, 500, 502, 503, 504)
_SUBJECTS = ("alice", "bob", "carol")
OPERATOR, OPERATOR_SCOPE = "op", "bank:operator"
REFUSALS = frozenset(
    [
        "insufficient-funds",
        "already-reversed",
        "reversal-exceeded",
        "hold-not-active",
        "hold-exceeded",
        "same-account",
        "not-reversible",
    ]
)


class Pacer:
    """Spreads the requests of each client over the faults: the n-th share is sent during the n-th fault."""

    def __init__(self, faults: int) -> None:
        self._shares = max(faults, 1)
        self._condition = threading.Condition()
        self._share = -1
        self._started_at = 0.0
        self._seconds = 0.0

    def start_next_share(self, seconds: float) -> None:
        """Let the clients send their next share, spread over about `seconds`."""
        with self._condition:
            self._share += 1
            self._started_at, self._seconds = time.monotonic(), seconds
            self._condition.notify_all()

    def release_all(self) -> None:
        """Let the clients send the remaining requests as fast as they can."""
        with self._condition:
            self._share = self._shares
            self._condition.notify_all()

    def wait(self, number: int, count: int) -> None:
        """Return when request `number` of a client's `count` is due."""
        share, fraction = divmod(number * self._shares / count, 1.0)
        with self._condition:
            self._condition.wait_for(lambda: self._share >= share)
            due = self._started_at + fraction * self._seconds if self._share == share else 0.0
        time.sleep(max(0.0, due - time.monotonic()))


@dataclass
class ResponseLog:
    """The responses to all clients."""

    operations: list[Operation] = field(default_factory=list)
    # Number of responses by status and problem code, and of connection errors by class.
    counts: Counter[str] = field(default_factory=Counter)
    # Number of requests that were not sent, because there was no hold or transaction to refer to.
    skipped: int = 0
    # Requests without a final response in time, and responses that no fault explains.
    unexpected: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, operations: Sequence[Operation]) -> None:
        """Record operations with their outcomes."""
        with self.lock:
            self.operations += operations

    def count(self, response: str) -> None:
        """Count a response or a connection error."""
        with self.lock:
            self.counts[response] += 1

    def report_unexpected(self, message: str) -> None:
        """Record an unexpected result."""
        with self.lock:
            self.unexpected.append(message)


@dataclass
class _Request:
    """A planned request with real ids, its operations (several in a batch of transfers) and its responses."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    operations: list[Operation]
    batch: bool = False
    responses: list[tuple[int, Any]] = field(default_factory=list)

    def outcomes(self) -> list[Operation]:
        """Return each operation with its outcome and results according to the responses."""
        found = []
        for number, operation in enumerate(self.operations):
            responses = [
                _batch_item(body, number) if self.batch and status == 200 else (status, body)
                for status, body in self.responses
            ]
            # The response to a capture is the hold, which names the capturing transaction.
            id_name = "transaction_id" if operation.kind in CAPTURE_KINDS else "id"
            results = tuple(str(body[id_name] if status < 300 else body["code"]) for status, body in responses)
            outcome = UNKNOWN if not responses else ACKNOWLEDGED if responses[0][0] < 300 else REFUSED
            found.append(replace(operation, outcome=outcome, results=results))
        return found


def _batch_item(body: Any, number: int) -> tuple[int, Any]:
    result = body["results"][number]
    return int(result["status"]), result.get("transaction") or result["problem"]


class Client:
    """One client with its own connection; later requests refer to its earlier transactions and holds."""

    def __init__(self, bank: Bank, log: ResponseLog, number: int, accounts: Sequence[str]) -> None:
        self._bank = bank
        self._log = log
        self._number = number
        self._accounts = accounts
        self._http = httpx.Client(base_url=bank.api_url)
        self._transactions: list[Operation] = []
        self._holds: list[Operation] = []
        self._retried_at_end: list[_Request] = []

    def run(self, planned: Sequence[PlannedRequest], pacer: Pacer) -> None:
        """Send all requests, each when it is due; at the end retry those whose retry policy says so."""
        for number, request in enumerate(planned):
            pacer.wait(number, len(planned))
            built = self._build(request, f"{self._number}-{number}")
            if built is None:
                with self._log.lock:
                    self._log.skipped += 1
                continue
            self._execute(built, request)
        for built in self._retried_at_end:
            self._send_with_retries(built, _LONG_TIMEOUT_SECONDS, _MAX_RETRY_SECONDS)
            self._log.add(built.outcomes())
        self._http.close()

    def _execute(self, request: _Request, planned: PlannedRequest) -> None:
        policy = planned.retry_policy
        timeout = _LONG_TIMEOUT_SECONDS if policy == RetryPolicy.LONG_TIMEOUT else _SHORT_TIMEOUT_SECONDS
        retries = policy in (RetryPolicy.LONG_TIMEOUT, RetryPolicy.SHORT_TIMEOUT)
        self._send_with_retries(request, timeout, _MAX_RETRY_SECONDS if retries else 0)
        if request.responses and planned.repeat:
            self._send_with_retries(request, _LONG_TIMEOUT_SECONDS, _MAX_RETRY_SECONDS)
        if not request.responses and policy == RetryPolicy.RETRY_AT_END:
            self._retried_at_end.append(request)
            return
        outcomes = request.outcomes()
        self._log.add(outcomes)
        acknowledged = [operation for operation in outcomes if operation.outcome == ACKNOWLEDGED]
        self._holds += [operation for operation in acknowledged if operation.kind == "hold"]
        self._transactions += [
            operation for operation in acknowledged if operation.kind in ("transfer", "deposit", "withdrawal")
        ]

    def _build(self, planned: PlannedRequest, key: str) -> _Request | None:
        """Return a planned request with real ids; None if its hold or transaction does not exist."""
        kind, amount = planned.kind, planned.amount
        source, target = self._accounts[planned.source], self._accounts[planned.target]
        headers = self._bank.headers(_SUBJECTS[planned.source % len(_SUBJECTS)])
        if kind == "transfer":
            body = usd(amount, from_account=source, to_account=target, reference=key)
            return _Request("/transfers", body, headers, [Operation(key, kind, amount, source, target)])
        if kind == "batch":
            return self._build_batch(planned, key, headers)
        if kind == "deposit":
            operation = Operation(key, kind, amount, target=source)
            return _Request(f"/accounts/{source}/deposits", usd(amount, reference=key), headers, [operation])
        if kind == "withdrawal":
            operation = Operation(key, kind, amount, source=source)
            return _Request(f"/accounts/{source}/withdrawals", usd(amount, reference=key), headers, [operation])
        if kind == "hold":
            return _Request(f"/accounts/{source}/holds", usd(amount), headers, [Operation(key, kind, amount, source)])
        return self._build_follow_up(planned, key)

    def _build_batch(self, planned: PlannedRequest, key: str, headers: dict[str, str]) -> _Request:
        source = self._accounts[planned.source]
        operations = [
            Operation(f"{key}.{number}", "transfer", amount, source, self._accounts[target])
            for number, (target, amount) in enumerate(planned.items)
        ]
        transfers = [
            usd(one.amount, from_account=source, to_account=one.target, reference=one.key, key=one.key)
            for one in operations
        ]
        return _Request("/transfers:batch", {"transfers": transfers}, headers, operations, batch=True)

    def _build_follow_up(self, planned: PlannedRequest, key: str) -> _Request | None:
        """Return a reversal, capture or void of an earlier transaction or hold of this client."""
        candidates = self._transactions if planned.kind == "reversal" else self._holds
        if not candidates:
            return None
        earlier = candidates[planned.earlier % len(candidates)]
        id_ = earlier.results[0]
        headers = self._bank.headers(OPERATOR, OPERATOR_SCOPE)
        amount, kind = earlier.amount, planned.kind
        if kind == "capture" and planned.amount % 2 == 0:
            amount = max(1, amount // 2)
        elif kind == "capture" and planned.amount % 3 == 0:
            amount, kind = max(1, amount // 3), "partial-capture"
        elif kind == "reversal" and planned.amount % 2 == 0:
            amount = max(1, amount // 2)
        operation = Operation(key, kind, amount, refers_to=id_)
        if planned.kind == "reversal":
            body = {"transaction_id": id_, "reason": key, "amount": amount}
            return _Request("/reversals", body, headers, [operation])
        if planned.kind == "void":
            return _Request(f"/holds/{id_}/voids", {}, headers, [operation])
        body = {"amount": amount, "final": kind == "capture"}
        return _Request(f"/holds/{id_}/captures", body, headers, [operation])

    def _send_with_retries(self, request: _Request, timeout: float, max_seconds: float) -> None:
        """Send a request and retry it with the same key until a final response or the timeout."""
        # A batch has a key besides those of its items.
        key = request.operations[0].key + ("/batch" if request.batch else "")
        headers = {**request.headers, "Idempotency-Key": key}
        started, pause = time.monotonic(), 0.05
        while not self._send(request, headers, timeout):
            # A timeout shorter than the response time would never succeed.
            timeout = min(timeout * 1.5, _LONG_TIMEOUT_SECONDS)
            if time.monotonic() - started >= max_seconds:
                if max_seconds:
                    self._log.report_unexpected(f"no response to {key} within {max_seconds:.0f} s")
                return
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        with self._log.lock:
            self._log.slowest_seconds = max(self._log.slowest_seconds, time.monotonic() - started)

    def _send(self, request: _Request, headers: dict[str, str], timeout: float) -> bool:
        """Send a request once; return whether the response is final."""
        try:
            response = self._http.post(f"/api/v1{request.path}", json=request.body, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            self._log.count(type(error).__name__)
            return False
        status, body = response.status_code, response.json()
        code = "" if status < 300 else body.get("code", "")
        self._log.count(f"{status} {code}".strip())
        if status in _RETRIED_STATUSES or code == "request-in-progress":
            return False
        if status >= 300 and code not in REFUSALS:
            self._log.report_unexpected(f"unexpected response {status} {code} to {headers['Idempotency-Key']}")
        request.responses.append((status, body))
        return True


def open_accounts(bank: Bank, log: ResponseLog) -> list[str]:
    """Open and fund all accounts; the deposits are recorded as operations."""
    accounts = []
    for number in range(ACCOUNTS):
        subject = _SUBJECTS[number % len(_SUBJECTS)]
        account = bank.open_account(subject=subject)
        key = f"opening-{number}"
        response = bank.post(
            f"/accounts/{account}/deposits", usd(OPENING_BALANCE, reference=key), subject=subject, key=key
        )
        assert response.status_code == 201, response.text
        results = (response.json()["id"],)
        log.add([Operation(key, "deposit", OPENING_BALANCE, target=account, outcome=ACKNOWLEDGED, results=results)])
        accounts.append(account)
    return accounts


class ClientPool:
    """The clients of a plan, running in threads."""

    def __init__(self, bank: Bank, plan: Plan, log: ResponseLog, accounts: Sequence[str]) -> None:
        self.pacer = Pacer(len(plan.faults))
        self._pool = ThreadPoolExecutor(len(plan.requests))
        self._futures = [
            self._pool.submit(Client(bank, log, number, accounts).run, requests, self.pacer)
            for number, requests in enumerate(plan.requests)
        ]

    def join(self) -> None:
        """Wait until every client has finished; raise the first error."""
        self.pacer.release_all()
        for future in self._futures:
            future.result()
        self._pool.shutdown()
