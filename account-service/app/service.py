"""AccountService executes requests: the only way to change the ledger."""

from collections.abc import Callable, Sequence

from sqlalchemy.ext.asyncio import AsyncEngine

from app.application import stored_responses
from app.application.batches import BatchExecutor
from app.application.rate_limiter import QueueQuota, RateLimiter
from app.application.requests import LedgerRequest, LedgerResponse, RequestContext
from app.models import idempotency_keys
from app.prometheus import BATCH_SIZE
from app.settings import AccountSettings
from shared.http import idempotency, problems
from shared.observability import tracing
from shared.http.auth import Caller
from shared.db.database import is_retryable, is_unavailable, reader
from shared.events import Event
from shared.group_commit import Closed, GroupCommit, QueueFull
from shared.http.problems import Problem


class AccountService:
    """Executes requests through the group commit, each key once, within the limits of its subject."""

    def __init__(
        self,
        engine: AsyncEngine,
        settings: AccountSettings,
        on_commit: Callable[[Sequence[Event]], None] = lambda events: None,
    ) -> None:
        self._reader = reader(engine)
        self._rate_limiter = RateLimiter(settings.subject_operations_per_second, settings.subject_operations_burst)
        # Half of the queue stays free for other subjects.
        self._queue_quota = QueueQuota(settings.group_commit_max_waiting // 2)
        self._in_progress: set[tuple[str, str]] = set()
        self._batches = BatchExecutor(engine, on_commit, log_commits=settings.access_log)
        self._group_commit: GroupCommit[LedgerRequest, LedgerResponse] = GroupCommit(
            self._batches.execute,
            # Each half would wait for the same lock again.
            should_split=lambda error: not (is_unavailable(error) or is_retryable(error)),
            size=lambda request: request.operations,
            max_batch=settings.group_commit_max_batch,
            max_waiting=settings.group_commit_max_waiting,
            on_batch=BATCH_SIZE.observe,
        )

    async def execute(self, request: LedgerRequest) -> LedgerResponse:
        """Return the response once it is durable; a repeated key gets the stored response.

        Raises Problem: request-in-progress while this process executes a request with the same key, rate-limited, or
        unavailable when the queue is full or the service is stopping.
        """
        if not request.caller.is_operator:
            self._rate_limiter.acquire(request.caller.subject, request.operations)
        if request.key is not None:
            if request.key in self._in_progress:
                raise Problem(
                    "request-in-progress",
                    "A request with this key is still in progress; retry to get its response.",
                    headers={"Retry-After": "1"},
                )
            self._in_progress.add(request.key)
        try:
            with (
                self._queue_quota.reserve(request.caller.subject, request.operations),
                tracing.span("group commit", [request.context.traceparent]),
            ):
                return await self._group_commit.submit(request)
        except QueueFull as error:
            raise problems.unavailable("Too many requests are queued; retry with the same key.") from error
        except Closed as error:
            raise problems.unavailable("This replica is shutting down; retry with the same key.") from error
        finally:
            if request.key is not None:
                self._in_progress.discard(request.key)

    async def replay(
        self, caller: Caller, key: str, request_hash: bytes, context: RequestContext
    ) -> LedgerResponse | None:
        """Return the response to a request whose key has been used, as `execute` does; None if it has not been used.

        Raises Problem (rate-limited).
        """
        if not caller.is_operator:
            self._rate_limiter.acquire(caller.subject, 1)
        used = caller.subject, key
        async with self._reader.connect() as connection:
            stored = (await idempotency.find(connection, idempotency_keys, [used])).get(used)
        return None if stored is None else stored_responses.replay(stored, request_hash, context)

    async def dry_run(self, requests: Sequence[LedgerRequest]) -> None:
        """Execute requests that need no cash account, and roll back. Raises what executing them would raise."""
        await self._batches.dry_run(requests)

    async def drain(self) -> None:
        """Finish the requests that have been accepted, and accept no more."""
        await self._group_commit.drain()
