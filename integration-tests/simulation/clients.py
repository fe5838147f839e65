"""Clients of the simulated bank: they send requests with keys, retry or give up, and record the responses."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import orjson

from shared.http.auth import CASH_DESK, OPERATOR, Caller
from shared.db.database import is_retryable, is_unavailable
from shared.http.idempotency import request_hash
from shared.ids import new_id, utc_now
from shared.http.problems import Problem
from simulation.bank import ACCOUNT, FREEZE, REVIEW, Bank
from simulation.services import load

_OPERATOR = Caller("operator", frozenset({OPERATOR, CASH_DESK}))
_ACCOUNTS, _MONEY = 3, 1000
# Enough attempts to outlast the faults of any seed.
_CERTAIN = 500
_KINDS = [
    *("transfer", "transfer", "transfer", "deposit", "withdraw", "batch", "reverse", "group", "reverse group"),
    *("hold", "capture", "partial capture", "extend", "void", "limits"),
]
_HOLD_KINDS = ("capture", "partial capture", "extend", "void")
BATCHES = ("batch", "atomic batch")
_LEGS = 3


@dataclass
class ClientOperation:
    """A request with one key, and the responses to it."""

    kind: str
    key: str
    build: Callable[[], Any]
    answers: list[Any] = field(default_factory=list)


class Clients:
    """All clients of a world; `wrong` are responses that no fault explains."""

    def __init__(self, bank: Bank) -> None:
        self.bank = bank
        self.world = bank.world
        self.rng = random.Random(f"{self.world.seed}/clients")
        self.asked: list[ClientOperation] = []
        self.wrong: list[str] = []
        self._accounts: list[str] = []
        self._posted: list[str] = []
        self._held: list[str] = []
        self._groups: list[str] = []
        self._repeated: list[asyncio.Task[Any]] = []

    async def run(self) -> None:
        """Open the accounts, then run all clients concurrently; return when all are done."""
        try:
            await asyncio.gather(*(self._open(number) for number in range(_ACCOUNTS)))
            await asyncio.gather(*(self._work(number) for number in range(self.world.plan.clients)))
            await asyncio.gather(*self._repeated)
        except Exception as error:  # pylint: disable=broad-exception-caught  # what no client could make sense of
            self.wrong.append(f"a client cannot go on: {error!r}")

    async def _open(self, number: int) -> None:
        commands, key = load(ACCOUNT).commands, f"open-{number}"
        opening = ClientOperation(
            "open", key, lambda: commands.OpenAccount(new_id(), f"{new_id()[-12:]:0>16}", "USD", key)
        )
        account = orjson.loads((await self._ask(opening, _CERTAIN)).body)["id"]
        self._accounts.append(account)
        key = f"money-{number}"
        await self._ask(
            ClientOperation("move", key, lambda: commands.Deposit(new_id(), account, _MONEY, "USD", key)), _CERTAIN
        )

    async def _work(self, client: int) -> None:
        for number in range(self.world.plan.requests):
            asked = self._draw(f"{client}-{number}")
            answer = await self._ask(asked, self.rng.choice([1, 3, 30]))
            if answer is not None and asked.kind == "move" and answer.status == 201:
                self._posted.append(orjson.loads(answer.body)["id"])
            if answer is not None and asked.kind == "hold" and answer.status == 201:
                self._held.append(orjson.loads(answer.body)["id"])
            if answer is not None and asked.kind == "group" and answer.status == 201:
                self._groups.append(orjson.loads(answer.body)["id"])
            if answer is not None and self.rng.random() < 0.2:
                await self._ask(asked, 3)
            if self.rng.random() < 0.5:
                await self._unfreeze(self.rng.choice(self._accounts))

    async def unfreeze_all(self) -> None:
        """Unfreeze every account: only a finding that was not consumed before may freeze one now."""
        for account in self._accounts:
            await self._unfreeze(account)

    async def _unfreeze(self, account: str) -> None:
        await self._send(lambda: load(ACCOUNT).commands.SetStatus(account, "active"), None)

    def _draw(self, key: str) -> ClientOperation:
        """Draw a request; its key is also its reference, so that its effects can be counted."""
        commands, rng = load(ACCOUNT).commands, self.rng
        kind = rng.choice(_KINDS)
        one, other = rng.sample(self._accounts, 2)
        amount = rng.choice([rng.randint(1, 200), rng.randint(REVIEW, FREEZE + 200)])
        if kind == "deposit":
            return ClientOperation("move", key, lambda: commands.Deposit(new_id(), one, amount, "USD", key))
        if kind == "withdraw":
            return ClientOperation("move", key, lambda: commands.Withdraw(new_id(), one, amount, "USD", key))
        if kind == "hold":
            expires_at = utc_now() + timedelta(days=1)
            return ClientOperation("hold", key, lambda: commands.PlaceHold(new_id(), one, amount, "USD", expires_at))
        if kind in _HOLD_KINDS and self._held:
            return self._draw_change_of_hold(kind, key)
        if kind == "limits":
            # Each different, so that each is a change.
            overdraft, daily = rng.choice([0, 300]), 1000 + len(self.asked)
            return ClientOperation("limits", key, lambda: commands.SetLimits(one, overdraft, daily))
        if kind == "batch":
            items = [(*rng.sample(self._accounts, 2), rng.randint(1, 300)) for _ in range(3)]
            atomic = rng.random() < 0.5
            return ClientOperation("atomic batch" if atomic else "batch", key, lambda: _batch(key, items, atomic))
        if kind == "group":
            legs = [(*rng.sample(self._accounts, 2), rng.randint(1, 300)) for _ in range(_LEGS)]
            return ClientOperation("group", key, lambda: _group(key, legs))
        if kind == "reverse group" and self._groups:
            group = rng.choice(self._groups)
            return ClientOperation("group reversal", key, lambda: _group_reversal(key, group))
        if kind == "reverse" and self._posted:
            original = rng.choice(self._posted)
            part = rng.choice([None, rng.randint(1, 100)])
            return ClientOperation("move", key, lambda: commands.Reverse(new_id(), original, key, part))
        return ClientOperation("move", key, lambda: commands.Transfer(new_id(), one, other, amount, "USD", key))

    def _draw_change_of_hold(self, kind: str, key: str) -> ClientOperation:
        commands, hold = load(ACCOUNT).commands, self.rng.choice(self._held)
        if kind == "capture":
            return ClientOperation("capture", key, lambda: commands.CaptureHold(new_id(), hold, None))
        if kind == "partial capture":
            part = self.rng.randint(1, 50)
            return ClientOperation("capture", key, lambda: commands.CaptureHold(new_id(), hold, part, final=False))
        if kind == "extend":
            later = utc_now() + timedelta(days=2, seconds=len(self.asked))
            return ClientOperation("extend", key, lambda: commands.ExtendHold(hold, later))
        return ClientOperation("void", key, lambda: commands.ReleaseHold(hold, "voided"))

    async def _ask(self, asked: ClientOperation, tries: int) -> Any:
        """Send a request, with a number of attempts; return its response, None without one."""
        if asked not in self.asked:
            self.asked.append(asked)
        for _ in range(tries):
            if self.world.happens("repeated request"):
                self._repeated.append(asyncio.create_task(self._send(asked.build, asked)))
            if (answer := await self._send(asked.build, asked)) is not None:
                return answer
            await asyncio.sleep(self.rng.uniform(0.05, 1))
        return None

    async def _send(self, build: Callable[[], Any], asked: ClientOperation | None) -> Any:
        """Send a request once to one of the replicas; return the response, None without one."""
        work = _work(build(), asked)
        try:
            answer = await self.world.call(
                self.rng.choice(self.bank.accounts), lambda process: process.service.execute(work)
            )
        except Problem as problem:
            if problem.code not in ("request-in-progress", "unavailable"):
                self.wrong.append(f"{asked}: {problem.code}")
            return None
        except Exception as error:  # pylint: disable=broad-exception-caught  # decided here what it means
            if not (isinstance(error, OSError) or is_unavailable(error) or is_retryable(error)):
                self.wrong.append(f"{asked}: {error!r}")
            return None
        self.world.note(f"acknowledged {asked.key if asked else 'unfreeze'}: {answer.status}")
        if asked is not None:
            asked.answers.append(answer)
        return answer


def _work(command: Any, asked: ClientOperation | None) -> Any:
    requests = load(ACCOUNT).requests
    context = requests.RequestContext("/simulated", asked.key if asked else None)
    if asked is None:
        return requests.LedgerRequest(_OPERATOR, command, 200, context)
    status = 200 if asked.kind in BATCHES else 201
    key = (_OPERATOR.subject, asked.key)
    return requests.LedgerRequest(_OPERATOR, command, status, context, key, request_hash(asked.kind, asked.key))


def _group(key: str, legs: list[tuple[str, str, int]]) -> Any:
    commands, group = load(ACCOUNT).commands, new_id()
    transfers = (
        commands.Transfer(new_id(), *leg, "USD", f"{key}/{number}", None, group) for number, leg in enumerate(legs)
    )
    return commands.PostGroup(group, tuple(transfers))


def _group_reversal(key: str, group: str) -> Any:
    return load(ACCOUNT).commands.ReverseGroup(new_id(), tuple(new_id() for _ in range(_LEGS)), group, key)


def _batch(key: str, items: list[tuple[str, str, int]], atomic: bool) -> Any:
    requests, commands = load(ACCOUNT).requests, load(ACCOUNT).commands
    works = []
    for number, (one, other, amount) in enumerate(items):
        name = f"{key}/{number}"
        transfer = commands.Transfer(new_id(), one, other, amount, "USD", name)
        subject = (_OPERATOR.subject, name)
        works.append(
            requests.LedgerRequest(
                _OPERATOR,
                transfer,
                201,
                requests.RequestContext("/simulated", name),
                subject,
                request_hash("item", name),
            )
        )
    return requests.TransferBatch(tuple(works), atomic)
