"""Alembic's entry point."""

from app.models import metadata
from shared.db.migrate import run_environment

run_environment(metadata)
