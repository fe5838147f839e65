"""The plan of the drill `faults`: its faults and the clients' requests. The same seed gives the same plan.

Plain data without clock or network. Accounts, replicas and earlier responses are identified by number, because their
ids are known only when the plan runs.
"""

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

ACCOUNT, TRANSACTION = "account-service", "transaction-service"
ACCOUNTS = 24
CLIENTS = 16
OPENING_BALANCE = 500_000
# More than any balance, so that the ledger refuses it.
_UNAFFORDABLE = 10**9
_MAX_AMOUNT = 2_000

_SERVICES = tuple((name, "") for name in (ACCOUNT, TRANSACTION, "postgres", "nats", "nginx"))
_CONNECTIONS = (
    (ACCOUNT, "postgres"),
    (ACCOUNT, "nats"),
    ("nginx", ACCOUNT),
    ("nginx", TRANSACTION),
    (TRANSACTION, "postgres"),
    (TRANSACTION, "nats"),
    (TRANSACTION, ACCOUNT),
)
_WITH_DISK = (("postgres", ""), ("nats", ""))


@dataclass(frozen=True, slots=True)
class FaultKind:
    """The possible targets of a kind of fault (service and peer), its frequency, and its duration in seconds."""

    targets: Sequence[tuple[str, str]]
    frequency: int
    min_seconds: float
    max_seconds: float


KINDS = {
    "kill": FaultKind(_SERVICES, 6, 0.2, 3.0),
    "restart": FaultKind(_SERVICES, 2, 0.0, 0.0),
    "freeze": FaultKind(_SERVICES, 3, 0.5, 4.0),
    "partition": FaultKind(_CONNECTIONS, 5, 0.5, 6.0),
    "one-way-partition": FaultKind(_CONNECTIONS, 3, 0.5, 4.0),
    "packet-loss": FaultKind(_CONNECTIONS, 2, 2.0, 6.0),
    "slow-network": FaultKind(_SERVICES, 2, 2.0, 6.0),
    "slow-disk": FaultKind(_WITH_DISK, 2, 2.0, 6.0),
    "clock-skew": FaultKind(((ACCOUNT, ""), (TRANSACTION, "")), 2, 2.0, 6.0),
    "full-disk": FaultKind(_WITH_DISK, 2, 1.0, 5.0),
}
_PAUSE_SECONDS = (0.3, 2.0)
_OVERLAP_PROBABILITY = 0.2
_CLOCK_SKEWS = (-300, -30, -2, 2, 30, 300)


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `replica` and `peer_replica` are indices, modulo the number of replicas; `skew` is in seconds.

    It is repaired after `seconds`; `pause` seconds follow. With `overlaps`, it lasts until the next fault is repaired.
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
        where = _label(self.target, self.replica) + (f" - {_label(self.peer, self.peer_replica)}" if self.peer else "")
        by = f" by {self.skew:+d} s" if self.skew else ""
        return f"{self.kind:17} {where}{by} for {self.seconds:.1f} s{', overlapping the next' if self.overlaps else ''}"


def _label(service: str, replica: int) -> str:
    """Return the name of a service, with the number of the replica if it has two."""
    return f"{service} {replica + 1}" if service in (ACCOUNT, TRANSACTION) else service


class RetryPolicy(StrEnum):
    """How a client retries a request without a final response."""

    LONG_TIMEOUT = "long timeout, retries"
    SHORT_TIMEOUT = "short timeout, retries"
    NO_RETRY = "short timeout, no retry"
    RETRY_AT_END = "short timeout, retries after the last fault"


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request of a client.

    `repeat` sends it again after its response. `earlier` selects one of the client's holds or transactions, modulo
    their number; `items` are target and amount of each transfer of a batch.
    """

    kind: str
    source: int
    target: int
    amount: int
    retry_policy: RetryPolicy
    repeat: bool
    earlier: int
    items: tuple[tuple[int, int], ...] = ()

    @property
    def transfers(self) -> int:
        """Number of transfers."""
        return len(self.items) if self.kind == "batch" else int(self.kind == "transfer")


@dataclass(frozen=True, slots=True)
class Plan:
    """The faults of a run, and the requests of each client."""

    seed: int
    faults: tuple[Fault, ...]
    requests: tuple[tuple[PlannedRequest, ...], ...]

    @property
    def transfers(self) -> int:
        """Number of transfers that clients request."""
        return sum(request.transfers for client in self.requests for request in client)

    @property
    def digest(self) -> str:
        """A short hash of this plan."""
        return hashlib.sha256(repr((self.faults, self.requests)).encode()).hexdigest()[:12]


def make_plan(seed: int, faults: int, transfers: int, kinds: Sequence[str]) -> Plan:
    """Return the plan of a seed, with faults of the given kinds (those available on this machine)."""
    shares = [transfers // CLIENTS + (number < transfers % CLIENTS) for number in range(CLIENTS)]
    return Plan(
        seed,
        tuple(_draw_faults(random.Random(f"{seed}/faults"), faults, kinds)),
        tuple(tuple(_draw_requests(random.Random(f"{seed}/{number}"), share)) for number, share in enumerate(shares)),
    )


def _draw_faults(rng: random.Random, count: int, kinds: Sequence[str]) -> Iterator[Fault]:
    # Each kind once before any is repeated, and unused targets first, so that even a few faults are diverse.
    available = [name for name in KINDS if name in kinds]
    used: list[tuple[str, tuple[str, str]]] = []
    previous: Fault | None = None
    for number in range(count):
        if number < len(available):
            kind = rng.choice([name for name in available if name not in {fault for fault, _ in used}])
        else:
            (kind,) = rng.choices(available, [KINDS[name].frequency for name in available])
        # A fault that overlaps the previous one must have another target.
        busy = {previous.target, previous.peer} - {""} if previous is not None and previous.overlaps else set()
        targets = KINDS[kind].targets
        free = [pair for pair in targets if not busy & set(pair)] or list(targets)
        target, peer = rng.choice([pair for pair in free if (kind, pair) not in used] or free)
        used.append((kind, (target, peer)))
        previous = Fault(
            kind,
            target,
            peer,
            rng.randrange(2),
            rng.randrange(2),
            round(rng.uniform(KINDS[kind].min_seconds, KINDS[kind].max_seconds), 1),
            round(rng.uniform(*_PAUSE_SECONDS), 1),
            rng.random() < _OVERLAP_PROBABILITY
            and number < count - 1
            and not busy & {target, peer}
            and kind != "restart",
            rng.choice(_CLOCK_SKEWS) if kind == "clock-skew" else 0,
        )
        yield previous


def _draw_requests(rng: random.Random, transfers: int) -> Iterator[PlannedRequest]:
    while transfers > 0:
        (kind,) = rng.choices(
            ("transfer", "batch", "deposit", "withdrawal", "hold", "capture", "void", "reversal"),
            (56, 8, 6, 7, 8, 5, 3, 7),
        )
        source, target = rng.sample(range(ACCOUNTS), 2)
        unaffordable = rng.random() < 0.05 and kind != "deposit"
        amount = _UNAFFORDABLE if unaffordable else rng.randint(1, _MAX_AMOUNT)
        (retry_policy,) = rng.choices(list(RetryPolicy), (70, 15, 10, 5))
        items = [(rng.randrange(ACCOUNTS), rng.randint(1, 200)) for _ in range(min(rng.randint(2, 12), transfers))]
        request = PlannedRequest(
            kind,
            source,
            target,
            amount,
            retry_policy,
            rng.random() < 0.03,
            rng.randrange(1000),
            tuple(items) if kind == "batch" else (),
        )
        transfers -= request.transfers
        yield request
