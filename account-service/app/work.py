"""What the ledger is asked, by whom, and what it answers: requests on their way through the group commit."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.book import Command
from shared.http.auth import OPERATOR, Caller

# Acts for the bank itself: releases holds, freezes on a fraud event.
SYSTEM = Caller("bank", frozenset({OPERATOR}))
# Keys of events belong to nobody's token, and are kept for ever: a rebuilt history tells old findings again, which must
# not freeze again.
EVENT_SUBJECT = ""


@dataclass(frozen=True, slots=True)
class Trace:
    """Where a request comes from, carried into its events and problems."""

    path: str
    request_id: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """Transfers that are decided one by one and committed together."""

    items: tuple["Work", ...]


@dataclass(frozen=True, slots=True)
class Work:
    """One request to the ledger; without a key it is naturally idempotent and its answer is not kept."""

    caller: Caller
    command: Command | Batch
    status: int
    trace: Trace
    key: tuple[str, str] | None = None
    request_hash: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a request: an HTTP status and a JSON body."""

    status: int
    body: bytes
    replayed: bool = False


def flatten(batch: Iterable[Work]) -> Iterable[Work]:
    """Return the requests of a batch with the items of batches inside it."""
    for work in batch:
        yield work
        if isinstance(work.command, Batch):
            yield from work.command.items


def size_of(work: Work) -> int:
    """Return how many operations a request is."""
    return len(work.command.items) if isinstance(work.command, Batch) else 1
