"""The migrations make exactly the schema that the models describe."""

from pathlib import Path

from app.models import metadata
from shared.testing.fixtures import assert_migrations_match_models


def test_migrations_and_models_agree(database_url: str) -> None:
    assert_migrations_match_models(metadata, Path(__file__).parent.parent, database_url)
