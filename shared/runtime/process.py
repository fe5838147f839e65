"""Resources of a service process: database engine, authenticator, relay, NATS connection and background tasks."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from shared.observability import tracing
from shared.http.auth import Authenticator
from shared.messaging.consumer import Consumer, Handler
from shared.db.database import create_engine, ping
from shared.http.health import Check, task_check
from shared.messaging.outbox import Outbox
from shared.prometheus.database import watch_pool
from shared.prometheus.process import measure_loop_lag
from shared.messaging.relay import Relay
from shared.messaging import retention, streams
from shared.messaging.feed import MAX_LIMIT
from shared.messaging.recovery import Recovery
from shared.prometheus.events import CONSUMER_LAG
from shared.runtime.settings import ServiceSettings
from shared.messaging.shadow import ShadowConsumer
from shared.runtime.tasks import cancel_all, shield
from shared.messaging.transport import FeedSource, NatsConnection, NatsSource, Source

log = logging.getLogger(__name__)

# By name: interval in seconds, and the job.
Jobs = Mapping[str, tuple[float, Callable[[], Awaitable[object]]]]
_RECOVERY_SECONDS = 10.0
_RETENTION_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Producer:
    """The service whose events another one consumes.

    `single_subject` is the subject of the single events of earlier releases, which may still be in the stream. What the
    broker has lost is read from the feed, unless `feed_url` is empty.
    """

    name: str
    single_subject: str
    feed_url: str


class Runtime:
    """The resources of one service process and its readiness checks."""

    def __init__(self, settings: ServiceSettings, outbox: Outbox) -> None:
        self.settings = settings
        self._outbox = outbox
        self.engine = create_engine(
            settings.database_url, pool_size=settings.database_pool_size, name=settings.instance or settings.service
        )
        self.authenticator = Authenticator(settings.auth_jwks, settings.auth_issuer, settings.auth_audience)
        url = settings.events_url
        is_broker = url.startswith(("nats://", "tls://"))
        self.bus = (
            NatsConnection(url, settings.events_ca, settings.events_stream_bytes, settings.events_stream_replicas)
            if is_broker
            else None
        )
        self.relay = Relay(self.engine, outbox, self.bus, settings.service)
        self.outbox_readers: list[retention.Reader] = [self.relay.published]
        self.tasks: list[asyncio.Task[None]] = []
        watch_pool(self.engine)
        tracing.trace_statements(self.engine)

    def sources(self, producer: Producer) -> list[Source]:
        """Return the sources that the service consumes events from; none if EVENTS_URL is not set.

        Stable replicas share durable consumers; a canary receives all events.
        """
        settings = self.settings
        if self.bus is None:
            return [FeedSource(settings.events_url, self._token)] if settings.events_url else []
        subjects = {
            f"{settings.service}-batches": streams.batch_subject(producer.name),
            settings.service: producer.single_subject,
        }
        return [
            NatsSource(self.bus, None if self._is_canary else durable, subject) for durable, subject in subjects.items()
        ]

    @property
    def _token(self) -> str:
        return self.settings.service_token.get_secret_value()

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
        self, producer: Producer, handler: Handler, jobs: Jobs, stable_jobs: Jobs
    ) -> AsyncIterator[None]:
        """Run relay, consumers and periodic jobs while the block runs.

        A canary does not run `stable_jobs`, so that a faulty version changes no data on its own.
        """
        try:
            await self.authenticator.load()
        except Exception as error:  # pylint: disable=broad-exception-caught  # retried with the first token
            log.error("cannot load the issuer's keys from AUTH_JWKS, retrying: %r", error)
        sources = self.sources(producer)
        work = {"loop-lag": measure_loop_lag()}
        own_jobs = dict(jobs)
        names = ("consumer", "single-event-consumer")
        if self._is_canary:
            work |= {name: ShadowConsumer(source, handler).run() for name, source in zip(names, sources)}
        else:
            work["relay"] = self.relay.run()
            own_jobs |= stable_jobs
            if days := self.settings.outbox_retention_days:
                age = timedelta(days=days)
                prune = partial(retention.prune, self.engine, self._outbox, self.outbox_readers, age)
                own_jobs["outbox-retention"] = (_RETENTION_SECONDS, prune)
            consumers = [Consumer(source, handler) for source in sources]
            CONSUMER_LAG.set_function(lambda: max((consumer.lag_seconds() for consumer in consumers), default=0.0))
            work |= {name: consumer.run() for name, consumer in zip(names, consumers)}
            if self.bus is not None and producer.feed_url:
                feed = FeedSource(producer.feed_url, self._token, limit=MAX_LIMIT)
                sources.append(feed)
                own_jobs["event-recovery"] = (_RECOVERY_SECONDS, Recovery(feed, handler, consumers[0]).run)
        work |= {name: _every(seconds, name, job) for name, (seconds, job) in own_jobs.items()}
        self.tasks = [asyncio.create_task(task, name=name) for name, task in work.items()]
        try:
            yield
        finally:
            await cancel_all(self.tasks)
            for source in sources:
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
