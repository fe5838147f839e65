"""The migrations create the schema of the models."""

from pathlib import Path

from app.models import metadata
from shared.testing.fixtures import assert_migrations_match_models


def test_migrations_match_models(database_url: str) -> None:
    assert_migrations_match_models(metadata, Path(__file__).parent.parent, database_url)
