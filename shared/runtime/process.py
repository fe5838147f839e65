"""Resources of a service process: database engine, authenticator, relay, NATS connection and background tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

from shared.observability import tracing
from shared.http.auth import Authenticator
from shared.messaging.consumer import Consumer, Handler
from shared.db.database import create_engine, ping
from shared.http.health import Check, task_check
from shared.messaging.outbox import Outbox
from shared.prometheus.database import watch_pool
from shared.prometheus.process import measure_loop_lag
from shared.messaging.relay import Relay
from shared.runtime.settings import ServiceSettings
from shared.messaging.shadow import ShadowConsumer
from shared.runtime.tasks import shield
from shared.messaging.transport import FeedSource, NatsConnection, NatsSource, Source

log = logging.getLogger(__name__)

# By name: interval in seconds, and the job.
Jobs = Mapping[str, tuple[float, Callable[[], Awaitable[object]]]]


class Runtime:
    """The resources of one service process and its readiness checks."""

    def __init__(self, settings: ServiceSettings, outbox: Outbox) -> None:
        self.settings = settings
        self.engine = create_engine(
            settings.database_url, pool_size=settings.database_pool_size, name=settings.instance or settings.service
        )
        self.authenticator = Authenticator(settings.auth_jwks, settings.auth_issuer, settings.auth_audience)
        url = settings.events_url
        self.bus = NatsConnection(url, settings.events_ca) if url.startswith(("nats://", "tls://")) else None
        self.relay = Relay(self.engine, outbox, self.bus, settings.service)
        self.tasks: list[asyncio.Task[None]] = []
        watch_pool(self.engine)
        tracing.trace_statements(self.engine)

    def source(self, subject: str) -> Source | None:
        """Return the source that the service consumes events from; None when EVENTS_URL is not set.

        Stable replicas share one durable consumer; a canary receives all events.
        """
        if self.bus is not None:
            return NatsSource(self.bus, None if self._is_canary else self.settings.service, subject)
        if self.settings.events_url:
            return FeedSource(self.settings.events_url, self.settings.service_token.get_secret_value())
        return None

    @property
    def _is_canary(self) -> bool:
        return self.settings.app_track == "canary"

    def checks(self) -> Mapping[str, Check]:
        """Return the readiness checks of the service."""

        async def database() -> None:
            await ping(self.engine)

        return {"database": database, **{task.get_name(): task_check(task) for task in self.tasks}}

    @asynccontextmanager
    async def run_background_tasks(
        self, subject: str, handler: Handler, jobs: Jobs, stable_jobs: Jobs
    ) -> AsyncIterator[None]:
        """Run relay, consumer and periodic jobs while the block runs.

        A canary does not run `stable_jobs`, so that a faulty version changes no data on its own.
        """
        try:
            await self.authenticator.load()
        except Exception as error:  # pylint: disable=broad-exception-caught  # retried with the first token
            log.error("cannot load the issuer's keys from AUTH_JWKS, retrying: %r", error)
        source = self.source(subject)
        work = {"loop-lag": measure_loop_lag(), **({} if self._is_canary else {"relay": self.relay.run()})}
        if source is not None:
            consumer = ShadowConsumer(source, handler) if self._is_canary else Consumer(source, handler)
            work["consumer"] = consumer.run()
        own_jobs = {**jobs, **({} if self._is_canary else stable_jobs)}
        work |= {name: _every(seconds, name, job) for name, (seconds, job) in own_jobs.items()}
        self.tasks = [asyncio.create_task(task, name=name) for name, task in work.items()]
        try:
            yield
        finally:
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            if source is not None:
                with suppress(Exception):
                    await source.close()
            if self.bus is not None:
                await self.bus.close()

    async def close(self) -> None:
        """Close all database connections."""
        await self.engine.dispose()


async def _every(seconds: float, name: str, job: Callable[[], Awaitable[object]]) -> None:
    while True:
        try:
            await shield(job())
        except Exception as error:  # pylint: disable=broad-exception-caught  # a job must outlive every outage
            log.warning("%s failed, retrying in %s s: %r", name, seconds, error)
        await asyncio.sleep(seconds)
