"""Metrics of the database connection pool."""

from prometheus_client import Gauge
from sqlalchemy import QueuePool
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.prometheus.registry import REGISTRY

POOL_IN_USE = Gauge("bank_database_pool_in_use", "Database connections in use.", registry=REGISTRY)
POOL_SIZE = Gauge("bank_database_pool_size", "Maximum number of database connections of the pool.", registry=REGISTRY)


def watch_pool(engine: AsyncEngine) -> None:
    """Export the metrics of the engine's pool; they are read at each scrape."""
    pool = engine.pool
    if isinstance(pool, QueuePool):
        POOL_IN_USE.set_function(pool.checkedout)
        POOL_SIZE.set_function(pool.size)
