"""Requests to the ledger on their way through the group commit, and their responses."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.domain.commands import Command, PostGroup, ReverseGroup
from app.domain.model import MAX_LEGS
from shared.http.auth import OPERATOR, Caller

# The bank itself: it releases expired holds and freezes accounts on a fraud event.
SYSTEM = Caller("bank", frozenset({OPERATOR}))
# Subject of the idempotency keys of events; no token has it. These keys are kept for ever: rebuilding the
# history publishes old flags again, and a flag must not freeze an account twice.
EVENT_SUBJECT = ""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """Path, request id and trace of a request, for its problems and events; the client bucket, for metrics."""

    path: str
    request_id: str | None = None
    traceparent: str | None = None
    client_bucket: str | None = None


@dataclass(frozen=True, slots=True)
class TransferBatch:
    """Transfers that are decided one by one and committed together; if `atomic`, all of them or none."""

    items: tuple["LedgerRequest", ...]
    atomic: bool = False


@dataclass(frozen=True, slots=True)
class LedgerRequest:
    """A command and its caller. Without an idempotency key it is idempotent by itself, and its response is not stored.

    `success_status` is the HTTP status of a command that was not refused.
    """

    caller: Caller
    command: Command | TransferBatch
    success_status: int
    context: RequestContext
    key: tuple[str, str] | None = None
    request_hash: bytes = b""

    @property
    def operations(self) -> int:
        """Number of operations; a transfer batch counts as its transfers, and a group as its legs."""
        if isinstance(self.command, TransferBatch):
            return len(self.command.items)
        if isinstance(self.command, PostGroup):
            return len(self.command.legs)
        # How many legs are reversed is only known when they have been loaded.
        return MAX_LEGS if isinstance(self.command, ReverseGroup) else 1


@dataclass(frozen=True, slots=True)
class LedgerResponse:
    """The response to a request: an HTTP status and a JSON body."""

    status: int
    body: bytes
    replayed: bool = False


def flatten(requests: Iterable[LedgerRequest]) -> Iterable[LedgerRequest]:
    """Return the requests, each transfer batch followed by its transfers."""
    for request in requests:
        yield request
        if isinstance(request.command, TransferBatch):
            yield from request.command.items
