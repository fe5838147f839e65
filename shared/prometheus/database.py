"""Metrics of the database pool."""

from prometheus_client import Gauge
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.prometheus.registry import REGISTRY

POOL_IN_USE = Gauge("bank_database_pool_in_use", "Database connections taken from the pool.", registry=REGISTRY)
POOL_SIZE = Gauge("bank_database_pool_size", "Database connections the pool may open.", registry=REGISTRY)


def watch_pool(engine: AsyncEngine) -> None:
    """Measure the engine's pool whenever metrics are read."""
    pool = engine.pool
    if isinstance(pool, QueuePool):
        POOL_IN_USE.set_function(pool.checkedout)
        POOL_SIZE.set_function(pool.size)
