"""Creates the application from its parts."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from fastapi import FastAPI

from app import api, jobs
from app.application.proofs import Proofs
from app.application.queries import Queries
from app.application.sealer import Sealer
from app.application.snapshot import read_page
from app.consumer import FlagHandler
from app.http import audit_api, groups_api, holds_api, internal_api, ledger_api
from app.models import outbox
from app.service import AccountService
from app.settings import AccountSettings
from shared.messaging import feed, snapshot
from shared.prometheus.checks import CHECKED
from shared.runtime.process import Jobs, Producer, Runtime
from shared.http.web import Service, create_app

_HOUR = 3600.0


def create(settings: AccountSettings) -> Service:
    """Return the application, ready to be served."""
    runtime = Runtime(settings, outbox)
    engine = runtime.engine
    service = AccountService(engine, settings, runtime.relay.notify_commit)
    queries = Queries(engine)
    secret = settings.service_token.get_secret_value()
    sealer = Sealer(
        engine, settings.signer, timedelta(seconds=settings.ledger_root_seconds), runtime.relay.notify_commit
    )
    runtime.outbox_readers.append(sealer.sealed)

    CHECKED.labels("ledger").set_to_current_time()
    all_jobs: Jobs = {"ledger-check": (settings.ledger_check_seconds, partial(jobs.measure_imbalance, queries))}
    stable_jobs: Jobs = {
        "hold-sweeper": (settings.hold_sweep_seconds, partial(jobs.release_expired_holds, engine, service)),
        "event-check": (
            settings.event_check_seconds,
            partial(jobs.run_sequentially, jobs.EventCheck(engine).run, jobs.HoldCheck(engine).run),
        ),
        "ledger-sealer": (settings.ledger_seal_seconds, sealer.run),
        "key-retention": (_HOUR, partial(jobs.purge_expired_keys, engine, settings.idempotency_retention_days)),
    }

    producer = Producer("transaction-service", "bank.transaction.flagged", settings.transaction_service_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with runtime.run_background_tasks(producer, FlagHandler(engine, service), all_jobs, stable_jobs):
            yield
            await service.drain()
        await runtime.close()

    service_app = create_app(
        settings,
        "Accounts and the double-entry ledger.",
        routes=[*api.ROUTES, *groups_api.ROUTES, *holds_api.ROUTES, *audit_api.ROUTES, *ledger_api.ROUTES],
        internal_routes=[
            feed.route(engine, outbox, secret),
            snapshot.route(engine, outbox, secret, read_page),
            *internal_api.ROUTES,
        ],
        checks=runtime.checks,
        lifespan=lifespan,
    )
    service_app.app.state.settings = settings
    service_app.app.state.service = service
    service_app.app.state.queries = queries
    service_app.app.state.proofs = Proofs(engine, settings.ledger_root_seconds)
    service_app.app.state.runtime = runtime
    service_app.app.state.authenticator = runtime.authenticator
    return service_app
