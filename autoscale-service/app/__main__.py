"""`python -m app`: run autoscale-service."""

from shared.runtime import sigterm  # noqa: F401  # pylint: disable=unused-import,wrong-import-order  # first of all
from app.main import create
from app.settings import AutoscaleSettings
from shared.runtime.server import run
from shared.runtime.settings import load_or_exit

# A replica that is being stopped may take 20 seconds. Shorter than `stop_grace_period` in docker-compose.yml.
_SHUTDOWN_SECONDS = 42.0

if __name__ == "__main__":
    settings = load_or_exit(AutoscaleSettings)
    run(lambda: create(settings), settings, _SHUTDOWN_SECONDS)
