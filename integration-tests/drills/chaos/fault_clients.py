"""The clients of a fault drill: they run their planned operations and record every response.

Separate from harness/load.py: each operation of a plan has its own retry behaviour (patient, short timeout, giving up,
retrying at the end), runs when its fault does, and goes into a history that is checked. A failed attempt may or may not
have had its effect, so the responses are all that is known about an operation.
"""

import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx
from drills.chaos.fault_history import DONE, REFUSED, UNKNOWN, ClientOperation
from drills.chaos.fault_plan import ACCOUNTS, OPENING_BALANCE, Operation, Plan
from harness.client import Bank, usd

_PATIENT_SECONDS, _HASTY_SECONDS = 15.0, 0.25
# Outages last seconds; an operation without a response after this time is a violation.
_PATIENCE_SECONDS = 180.0
# Statuses that are no final response: the operation is retried with its key.
_ASK_AGAIN = (401, 429, 500, 502, 503, 504)
_SUBJECTS = ("alice", "bob", "carol")
OPERATOR, OPERATOR_SCOPE = "op", "bank:operator"


class Pace:
    """Spreads the clients' operations over the faults: fault number n has the n-th share of each client's list."""

    def __init__(self, faults: int) -> None:
        self._shares = max(faults, 1)
        self._begun = threading.Condition()
        self._share = -1
        self._since = 0.0
        self._seconds = 0.0

    def next_share(self, seconds: float) -> None:
        """Let the clients start their next share, spread over about `seconds`."""
        with self._begun:
            self._share += 1
            self._since, self._seconds = time.monotonic(), seconds
            self._begun.notify_all()

    def end(self) -> None:
        """Let the clients run the remaining operations as fast as they can."""
        with self._begun:
            self._share = self._shares
            self._begun.notify_all()

    def wait(self, number: int, count: int) -> None:
        """Return when operation `number` of a client's `count` is due."""
        share, within = divmod(number * self._shares / count, 1.0)
        with self._begun:
            self._begun.wait_for(lambda: self._share >= share)
            due = self._since + within * self._seconds if self._share == share else 0.0
        time.sleep(max(0.0, due - time.monotonic()))


@dataclass
class Log:
    """The responses of all clients."""

    asked: list[ClientOperation] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    # Operations that were not sent, because there was no hold or transaction to refer to.
    skipped: int = 0
    # Operations without a response in time, and responses that no fault explains.
    strange: list[str] = field(default_factory=list)
    slowest: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, asked: Sequence[ClientOperation]) -> None:
        """Record completed operations."""
        with self.lock:
            self.asked += asked

    def note(self, answer: str) -> None:
        """Count a response or an error."""
        with self.lock:
            self.answers[answer] += 1

    def report_unexpected(self, what: str) -> None:
        """Record an unexpected result."""
        with self.lock:
            self.strange.append(what)


@dataclass
class _Request:
    """An operation as it is sent, with the effects that it requests."""

    path: str
    body: dict[str, Any]
    headers: dict[str, str]
    asked: list[ClientOperation]
    batch: bool = False
    answers: list[tuple[int, Any]] = field(default_factory=list)

    def outcomes(self) -> list[ClientOperation]:
        """Return each effect with its outcome according to the responses."""
        found = []
        for number, one in enumerate(self.asked):
            mine = [
                _item(body, number) if self.batch and status == 200 else (status, body) for status, body in self.answers
            ]
            words = tuple(str(body["id"] if status < 300 else body["code"]) for status, body in mine)
            if one.kind == "capture":
                # The response is the hold, which names the capturing transaction.
                words = tuple(str(body["transaction_id"] if s < 300 else body["code"]) for s, body in mine)
            outcome = UNKNOWN if not mine else DONE if mine[0][0] < 300 else REFUSED
            found.append(
                ClientOperation(one.key, one.kind, one.amount, one.source, one.target, one.about, outcome, words)
            )
        return found


def _item(body: Any, number: int) -> tuple[int, Any]:
    result = body["results"][number]
    return int(result["status"]), result.get("transaction") or result["problem"]


class Client:
    """One client with its own connection; it remembers its transactions and holds for later operations."""

    def __init__(self, bank: Bank, log: Log, number: int, accounts: Sequence[str]) -> None:
        self._bank = bank
        self._log = log
        self._number = number
        self._accounts = accounts
        self._http = httpx.Client(base_url=bank.api_url)
        self._made: list[ClientOperation] = []
        self._holds: list[ClientOperation] = []
        self._later: list[_Request] = []

    def run(self, operations: Sequence[Operation], pace: Pace) -> None:
        """Run all operations, each when it is due; at the end retry those with the manner `later`."""
        for number, operation in enumerate(operations):
            pace.wait(number, len(operations))
            request = self._request(operation, f"{self._number}-{number}")
            if request is None:
                with self._log.lock:
                    self._log.skipped += 1
                continue
            self._carry_out(request, operation)
        for request in self._later:
            self._ask(request, _PATIENT_SECONDS, _PATIENCE_SECONDS)
            self._log.add(request.outcomes())
        self._http.close()

    def _carry_out(self, request: _Request, operation: Operation) -> None:
        impatient = operation.manner in ("once", "later")
        timeout = _PATIENT_SECONDS if operation.manner == "patient" else _HASTY_SECONDS
        self._ask(request, timeout, 0 if impatient else _PATIENCE_SECONDS)
        if request.answers and operation.again:
            self._ask(request, _PATIENT_SECONDS, _PATIENCE_SECONDS)
        if not request.answers and operation.manner == "later":
            self._later.append(request)
            return
        outcomes = request.outcomes()
        self._log.add(outcomes)
        done = [one for one in outcomes if one.outcome == DONE]
        self._holds += [one for one in done if one.kind == "hold"]
        self._made += [one for one in done if one.kind in ("transfer", "deposit", "withdrawal")]

    def _request(self, operation: Operation, key: str) -> _Request | None:
        """Return the operation with real ids; None if its hold or transaction does not exist."""
        kind, amount = operation.kind, operation.amount
        source, target = self._accounts[operation.source], self._accounts[operation.target]
        headers = self._headers(operation.source)
        if kind == "transfer":
            body = usd(amount, from_account=source, to_account=target, reference=key)
            return _Request("/transfers", body, headers, [ClientOperation(key, kind, amount, source, target)])
        if kind == "batch":
            items = [
                ClientOperation(f"{key}.{number}", "transfer", some, source, self._accounts[to])
                for number, (to, some) in enumerate(operation.items)
            ]
            transfers = [
                usd(one.amount, from_account=source, to_account=one.target, reference=one.key, key=one.key)
                for one in items
            ]
            return _Request("/transfers:batch", {"transfers": transfers}, headers, items, batch=True)
        if kind == "deposit":
            asked = ClientOperation(key, kind, amount, target=source)
            return _Request(f"/accounts/{source}/deposits", usd(amount, reference=key), headers, [asked])
        if kind == "withdrawal":
            asked = ClientOperation(key, kind, amount, source=source)
            return _Request(f"/accounts/{source}/withdrawals", usd(amount, reference=key), headers, [asked])
        if kind == "hold":
            return _Request(
                f"/accounts/{source}/holds", usd(amount), headers, [ClientOperation(key, kind, amount, source)]
            )
        return self._about(operation, key)

    def _about(self, operation: Operation, key: str) -> _Request | None:
        """Return a request that refers to an earlier transaction or hold of this client."""
        made = self._made if operation.kind == "reversal" else self._holds
        if not made:
            return None
        about = made[operation.earlier % len(made)]
        id_ = about.answers[0]
        headers = self._bank.headers(OPERATOR, OPERATOR_SCOPE)
        if operation.kind == "reversal":
            body = {"transaction_id": id_, "reason": key}
            return _Request("/reversals", body, headers, [ClientOperation(key, "reversal", about.amount, about=id_)])
        if operation.kind == "void":
            return _Request(f"/holds/{id_}/voids", {}, headers, [ClientOperation(key, "void", about.amount, about=id_)])
        amount = about.amount if operation.amount % 2 else max(1, about.amount // 2)
        return _Request(
            f"/holds/{id_}/captures", {"amount": amount}, headers, [ClientOperation(key, "capture", amount, about=id_)]
        )

    def _headers(self, account: int) -> dict[str, str]:
        return self._bank.headers(_SUBJECTS[account % len(_SUBJECTS)])

    def _ask(self, request: _Request, timeout: float, patience: float) -> None:
        """Send it, retrying with the same key until there is a final response or the time limit."""
        # The batch has a key besides those of its items.
        key = request.asked[0].key + ("/batch" if request.batch else "")
        headers = {**request.headers, "Idempotency-Key": key}
        began, pause = time.monotonic(), 0.05
        while True:
            if self._attempt(request, headers, timeout):
                break
            # A timeout shorter than the response time would never succeed.
            timeout = min(timeout * 1.5, _PATIENT_SECONDS)
            waited = time.monotonic() - began
            if waited >= patience:
                if patience:
                    self._log.report_unexpected(f"no response to {key} within {patience:.0f} s")
                return
            time.sleep(pause)
            pause = min(pause * 1.5, 1.0)
        with self._log.lock:
            self._log.slowest = max(self._log.slowest, time.monotonic() - began)

    def _attempt(self, request: _Request, headers: dict[str, str], timeout: float) -> bool:
        """Send it once; return whether the response is final."""
        try:
            answer = self._http.post(f"/api/v1{request.path}", json=request.body, headers=headers, timeout=timeout)
        except httpx.TransportError as error:
            self._log.note(type(error).__name__)
            return False
        body = answer.json()
        if answer.status_code < 300:
            self._log.note(str(answer.status_code))
            request.answers.append((answer.status_code, body))
            return True
        code = body.get("code", "")
        self._log.note(f"{answer.status_code} {code}")
        if answer.status_code in _ASK_AGAIN or code == "request-in-progress":
            return False
        if code not in REFUSALS:
            self._log.report_unexpected(f"{headers['Idempotency-Key']} got an unexpected {answer.status_code} {code}")
        request.answers.append((answer.status_code, body))
        return True


REFUSALS = frozenset(
    ["insufficient-funds", "already-reversed", "hold-not-active", "hold-exceeded", "same-account", "not-reversible"]
)


def open_accounts(bank: Bank, log: Log) -> list[str]:
    """Open and fund all accounts; the deposits are recorded as operations."""
    accounts = []
    for number in range(ACCOUNTS):
        subject = _SUBJECTS[number % len(_SUBJECTS)]
        account = bank.open_account(subject=subject)
        key = f"opening-{number}"
        answer = bank.post(
            f"/accounts/{account}/deposits", usd(OPENING_BALANCE, reference=key), subject=subject, key=key
        )
        assert answer.status_code == 201, answer.text
        log.add([ClientOperation(key, "deposit", OPENING_BALANCE, "", account, "", DONE, (answer.json()["id"],))])
        accounts.append(account)
    return accounts


class ClientPool:
    """The clients of a plan, running in threads."""

    def __init__(self, bank: Bank, plan: Plan, log: Log, accounts: Sequence[str]) -> None:
        self.pace = Pace(len(plan.faults))
        self._pool = ThreadPoolExecutor(len(plan.operations))
        self._work = [
            self._pool.submit(Client(bank, log, number, accounts).run, operations, self.pace)
            for number, operations in enumerate(plan.operations)
        ]

    def join(self) -> None:
        """Wait until every client is done; raise the first error."""
        self.pace.end()
        for work in self._work:
            work.result()
        self._pool.shutdown()
