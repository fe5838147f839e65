"""The plan of a fault drill: which faults, and what clients ask for. The same seed gives the same plan.

Plain data without clock or network. Accounts, replicas and earlier answers are named by number, since their ids are
known only when the plan is carried out.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ACCOUNT, TRANSACTION = "account-service", "transaction-service"
ACCOUNTS = 24
CLIENTS = 16
OPENING_BALANCE = 500_000
# More than any account ever has: these are refused.
TOO_MUCH = 10**9

_EVERYTHING = (ACCOUNT, TRANSACTION, "postgres", "nats", "nginx")
# Who talks to whom.
_PAIRS = (
    (ACCOUNT, "postgres"),
    (ACCOUNT, "nats"),
    ("nginx", ACCOUNT),
    ("nginx", TRANSACTION),
    (TRANSACTION, "postgres"),
    (TRANSACTION, "nats"),
    (TRANSACTION, ACCOUNT),
)
_ONE = tuple((name, "") for name in _EVERYTHING)
# What can happen to whom (and whom else), how often it is drawn, and for how many seconds it may last.
KINDS: dict[str, tuple[Sequence[tuple[str, str]], int, tuple[float, float]]] = {
    "kill": (_ONE, 6, (0.2, 3.0)),
    "restart": (_ONE, 2, (0.0, 0.0)),
    "freeze": (_ONE, 3, (0.5, 4.0)),
    "cut": (_PAIRS, 5, (0.5, 6.0)),
    "deaf": (_PAIRS, 3, (0.5, 4.0)),
    "lossy": (_PAIRS, 2, (2.0, 6.0)),
    "slow network": (_ONE, 2, (2.0, 6.0)),
    "slow disk": ((("postgres", ""), ("nats", "")), 2, (2.0, 6.0)),
    "clock": (((ACCOUNT, ""), (TRANSACTION, "")), 2, (2.0, 6.0)),
    "full disk": ((("postgres", ""), ("nats", "")), 2, (1.0, 5.0)),
}
_PAUSE = (0.3, 2.0)
# Two at once, now and then.
_OVERLAPS = 0.2
_SKEWS = (-300, -30, -2, 2, 30, 300)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `replica` and `peer_replica` are numbers, modulo what there is; `skew` is in seconds.

    It lasts some seconds and is healed; then there is a pause. One that overlaps is healed with the next one.
    """

    kind: str
    target: str
    peer: str
    replica: int
    peer_replica: int
    seconds: float
    pause: float
    overlaps: bool
    skew: int = 0

    def __str__(self) -> str:
        whom = _named(self.target, self.replica) + (f" - {_named(self.peer, self.peer_replica)}" if self.peer else "")
        by = f" by {self.skew:+d} s" if self.kind == "clock" else ""
        return f"{self.kind:12} {whom}{by} for {self.seconds:.1f} s{', and meanwhile' if self.overlaps else ''}"


def _named(service: str, replica: int) -> str:
    """Return the name of one of two replicas; the others are alone."""
    return f"{service} {replica + 1}" if service in (ACCOUNT, TRANSACTION) else service


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of a client.

    `manner` is how the client takes no answer: patient (waits long, tries again), hasty (waits 0.25 s at first, tries
    again), once (waits 0.25 s and gives up) or later (the same, and comes back at the end). `again` asks once more
    after the answer. `earlier` picks one of the client's holds or transactions, modulo what it has; `items` are the
    target and amount of each transfer of a batch.
    """

    kind: str
    source: int
    target: int
    amount: int
    manner: str
    again: bool
    earlier: int
    items: tuple[tuple[int, int], ...] = ()

    @property
    def transfers(self) -> int:
        """How many transfers it is."""
        return len(self.items) if self.kind == "batch" else int(self.kind == "transfer")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that happens in a run."""

    seed: int
    faults: tuple[Fault, ...]
    operations: tuple[tuple[Operation, ...], ...]

    @property
    def transfers(self) -> int:
        """How many transfers clients ask for."""
        return sum(one.transfers for client in self.operations for one in client)

    @property
    def digest(self) -> str:
        """A short name of exactly this plan."""
        return hashlib.sha256(repr((self.faults, self.operations)).encode()).hexdigest()[:12]


def make_plan(seed: int, faults: int, transfers: int, kinds: Sequence[str]) -> Plan:
    """Return the plan of a seed, with faults of the given kinds (those that can be caused where it runs)."""
    each = [transfers // CLIENTS + (number < transfers % CLIENTS) for number in range(CLIENTS)]
    return Plan(
        seed,
        tuple(_faults(random.Random(f"{seed}/faults"), faults, kinds)),
        tuple(tuple(_operations(random.Random(f"{seed}/{number}"), share)) for number, share in enumerate(each)),
    )


def _faults(draw: random.Random, count: int, kinds: Sequence[str]) -> Iterator[Fault]:
    # Every kind and target once before any comes again by chance: few faults are then as different as can be.
    ordered = [name for name in KINDS if name in kinds]
    fresh: list[tuple[str, tuple[str, str]]] = []
    before: Fault | None = None
    for number in range(count):
        if number < len(ordered):
            kind = draw.choice([name for name in ordered if name not in {used for used, _ in fresh}])
        else:
            (kind,) = draw.choices(ordered, [KINDS[name][1] for name in ordered])
        targets, _, (least, most) = KINDS[kind]
        # What is on its way with the one before is left alone.
        busy = {before.target, before.peer} - {""} if before is not None and before.overlaps else set()
        free = [pair for pair in targets if not busy & set(pair)] or list(targets)
        target, peer = draw.choice([pair for pair in free if (kind, pair) not in fresh] or free)
        fresh.append((kind, (target, peer)))
        clash = bool(busy & {target, peer})
        before = Fault(
            kind,
            target,
            peer,
            draw.randrange(2),
            draw.randrange(2),
            round(draw.uniform(least, most), 1),
            round(draw.uniform(*_PAUSE), 1),
            draw.random() < _OVERLAPS and number < count - 1 and not clash and kind != "restart",
            draw.choice(_SKEWS) if kind == "clock" else 0,
        )
        yield before


def _operations(draw: random.Random, transfers: int) -> Iterator[Operation]:
    while transfers > 0:
        (kind,) = draw.choices(
            ("transfer", "batch", "deposit", "withdrawal", "hold", "capture", "void", "reversal"),
            (56, 8, 6, 7, 8, 5, 3, 7),
        )
        source, target = draw.sample(range(ACCOUNTS), 2)
        amount = TOO_MUCH if draw.random() < 0.05 and kind != "deposit" else draw.randint(1, 2_000)
        (manner,) = draw.choices(("patient", "hasty", "once", "later"), (70, 15, 10, 5))
        items = [(draw.randrange(ACCOUNTS), draw.randint(1, 200)) for _ in range(min(draw.randint(2, 12), transfers))]
        operation = Operation(
            kind,
            source,
            target,
            amount,
            manner,
            draw.random() < 0.03,
            draw.randrange(1000),
            tuple(items) if kind == "batch" else (),
        )
        transfers -= operation.transfers
        yield operation
