"""`python -m app`: serve rollout-service."""

from app.main import create
from app.settings import RolloutSettings
from shared.server import run
from shared.settings import load_or_exit

if __name__ == "__main__":
    settings = load_or_exit(RolloutSettings)
    run(lambda: create(settings), settings)
