"""Alembic's entry point."""

from app.models import metadata
from shared.migrate import run_environment

run_environment(metadata)
