"""Wires account-service together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from app import api
from app.consumer import FlagHandler
from app.models import outbox
from app.prometheus import IMBALANCE
from app.service import AccountService
from app.settings import AccountSettings
from shared.messaging import feed
from shared.prometheus.checks import CHECKED
from shared.runtime.process import Jobs, Runtime
from shared.http.web import Service, create_app

_HOUR = 3600.0


def create(settings: AccountSettings) -> Service:
    """Return the application, ready to be served."""
    runtime = Runtime(settings, outbox)
    service = AccountService(runtime.engine, settings, runtime.relay.committed)

    CHECKED.labels("ledger").set_to_current_time()

    async def measure_imbalance() -> None:
        for currency, total in (await service.imbalance()).items():
            IMBALANCE.labels(currency).set(total)
        CHECKED.labels("ledger").set_to_current_time()

    measurements: Jobs = {"ledger-check": (settings.ledger_check_seconds, measure_imbalance)}
    chores: Jobs = {
        "hold-sweeper": (settings.hold_sweep_seconds, service.release_expired_holds),
        "key-retention": (_HOUR, service.forget_old_keys),
    }

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with runtime.running("bank.transaction.flagged", FlagHandler(service), measurements, chores):
            yield
            await service.drain()
        await runtime.close()

    service_app = create_app(
        settings,
        "Accounts and the double-entry ledger.",
        routes=api.ROUTES,
        internal_routes=[
            feed.route(runtime.engine, outbox, settings.service_token.get_secret_value()),
            *api.INTERNAL_ROUTES,
        ],
        checks=runtime.checks,
        lifespan=lifespan,
    )
    service_app.app.state.settings = settings
    service_app.app.state.service = service
    service_app.app.state.runtime = runtime
    service_app.app.state.authenticator = runtime.authenticator
    return service_app
