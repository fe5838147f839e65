"""Wires transaction-service together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from fastapi import FastAPI

from app import api, webhooks_api
from app.application.ingestion import EventIngestion
from app.application.reconciler import Reconciler
from app.application.flag_events import read_page
from app.application.webhook_delivery import WebhookDelivery
from app.consumer import HistoryHandler
from app.http.streaming import StreamLimiter
from app.ledger_client import LedgerClient
from app.models import outbox
from app.service import TransactionService
from app.settings import TransactionSettings
from app.webhook_client import WebhookClient
from app.webhooks import WebhookService
from shared.messaging import feed, snapshot
from shared.prometheus.checks import CHECKED
from shared.runtime.process import Jobs, Producer, Runtime
from shared.http.web import Service, create_app


def create(settings: TransactionSettings) -> Service:
    """Return the application, ready to be served."""
    runtime = Runtime(settings, outbox)
    secret = settings.service_token.get_secret_value()
    ledger = LedgerClient(settings.account_service_url, secret)
    ingestion = EventIngestion(runtime.engine, settings.thresholds, runtime.relay.notify_commit)
    reconciler = Reconciler(runtime.engine, settings, ledger)
    CHECKED.labels("reconciliation").set_to_current_time()
    jobs: Jobs = {"reconciliation": (settings.reconciliation_seconds, reconciler.reconcile)}

    webhook_key, allow_private = settings.webhook_key.get_secret_value(), settings.webhook_allow_private
    delivery = WebhookDelivery(
        runtime.engine,
        WebhookClient(settings.webhook_proxy, allow_private=allow_private),
        webhook_key,
        timedelta(days=settings.webhook_retention_days),
        runtime.relay.notify_commit,
    )
    stable_jobs = {"webhook-retention": (3600.0, delivery.prune)}
    if webhook_key:
        stable_jobs |= {"webhooks": (1.0, delivery.dispatch), "webhook-metrics": (15.0, delivery.observe)}

    producer = Producer("account-service", "bank.>", settings.account_service_url)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        async with runtime.run_background_tasks(producer, HistoryHandler(ingestion), jobs, stable_jobs):
            yield
        await delivery.close()
        await ledger.close()
        await runtime.close()

    service_app = create_app(
        settings,
        "Transaction history, statements, fraud rules, reconciliation and webhooks.",
        routes=[*api.ROUTES, *webhooks_api.ROUTES],
        internal_routes=[
            feed.route(runtime.engine, outbox, secret),
            snapshot.route(runtime.engine, outbox, secret, read_page),
        ],
        checks=runtime.checks,
        lifespan=lifespan,
    )
    service_app.app.state.service = TransactionService(runtime.engine, ledger, reconciler)
    service_app.app.state.webhooks = WebhookService(runtime.engine, webhook_key, allow_private=allow_private)
    service_app.app.state.streams = StreamLimiter()
    service_app.app.state.bank_name = settings.bank_name
    service_app.app.state.authenticator = runtime.authenticator
    return service_app
