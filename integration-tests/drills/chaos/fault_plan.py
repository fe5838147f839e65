"""The plan of a fault drill: its faults and the clients' operations. The same seed gives the same plan.

Plain data without clock or network. Accounts, replicas and earlier responses are identified by number, because their
ids are known only when the plan runs.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

ACCOUNT, TRANSACTION = "account-service", "transaction-service"
ACCOUNTS = 24
CLIENTS = 16
OPENING_BALANCE = 500_000
# More than any account ever has: refused.
TOO_MUCH = 10**9

_EVERYTHING = (ACCOUNT, TRANSACTION, "postgres", "nats", "nginx")
# Connections between services.
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
# Fault, target (and peer), relative frequency, and range of durations in seconds.
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
# Probability of two faults at once.
_OVERLAPS = 0.2
_SKEWS = (-300, -30, -2, 2, 30, 300)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `replica` and `peer_replica` are indices, modulo the number of replicas; `skew` is in seconds.

    It is repaired after some seconds; then there is a pause. One that overlaps is repaired with the next one.
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
    """Return the name of a target, with its replica if it has two."""
    return f"{service} {replica + 1}" if service in (ACCOUNT, TRANSACTION) else service


@dataclass(frozen=True, slots=True)
class Operation:
    """One request of a client.

    `manner` is the retry behaviour: patient (long timeout, retries), hasty (first timeout 0.25 s, retries), once
    (timeout 0.25 s, gives up) or later (the same, and retries at the end). `again` repeats the request after its
    response. `earlier` selects one of the client's holds or transactions, modulo their number; `items` are target and
    amount of each transfer of a batch.
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
        """Number of transfers."""
        return len(self.items) if self.kind == "batch" else int(self.kind == "transfer")


@dataclass(frozen=True, slots=True)
class Plan:
    """Faults and operations of a run."""

    seed: int
    faults: tuple[Fault, ...]
    operations: tuple[tuple[Operation, ...], ...]

    @property
    def transfers(self) -> int:
        """Number of transfers that clients request."""
        return sum(one.transfers for client in self.operations for one in client)

    @property
    def digest(self) -> str:
        """A short hash of this plan."""
        return hashlib.sha256(repr((self.faults, self.operations)).encode()).hexdigest()[:12]


def make_plan(seed: int, faults: int, transfers: int, kinds: Sequence[str]) -> Plan:
    """Return the plan of a seed, with faults of the given kinds (those available on this machine)."""
    each = [transfers // CLIENTS + (number < transfers % CLIENTS) for number in range(CLIENTS)]
    return Plan(
        seed,
        tuple(_faults(random.Random(f"{seed}/faults"), faults, kinds)),
        tuple(tuple(_operations(random.Random(f"{seed}/{number}"), share)) for number, share in enumerate(each)),
    )


def _faults(draw: random.Random, count: int, kinds: Sequence[str]) -> Iterator[Fault]:
    # Every kind once before random ones, and targets not used yet before others, so that a few faults are as different
    # as possible.
    ordered = [name for name in KINDS if name in kinds]
    used: list[tuple[str, tuple[str, str]]] = []
    before: Fault | None = None
    for number in range(count):
        if number < len(ordered):
            kind = draw.choice([name for name in ordered if name not in {one for one, _ in used}])
        else:
            (kind,) = draw.choices(ordered, [KINDS[name][1] for name in ordered])
        targets, _, (least, most) = KINDS[kind]
        # An overlapping fault must not have the same target as the one before.
        busy = {before.target, before.peer} - {""} if before is not None and before.overlaps else set()
        free = [pair for pair in targets if not busy & set(pair)] or list(targets)
        target, peer = draw.choice([pair for pair in free if (kind, pair) not in used] or free)
        used.append((kind, (target, peer)))
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
