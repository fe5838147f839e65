"""Print the settings and the OpenAPI document of a service as JSON.

    cd account-service && PYTHONPATH=.. python -m scripts.docs.describe_service

Every service has a package `app`, so each is described by a separate process (see scripts/docs/environment.py).
"""

import dataclasses
import importlib
import json
import os
import secrets
import tempfile
from pathlib import Path
from typing import Any

from shared.testing import lab_keys
from scripts.docs.environment import settings_variables
from shared.runtime.settings import ProcessSettings, ServiceSettings

# Required settings of all services; no connection is made.
_ENVIRONMENT = {
    "DATABASE_URL": "sqlite+aiosqlite:///nowhere.db",
    "SERVICE_TOKEN": secrets.token_hex(),
    "AUTOSCALE_TOKEN": secrets.token_hex(),
    "ACCOUNT_SERVICE_URL": "http://account-service:8000",
    "PROJECT": "bank",
}


def describe(folder: Path) -> dict[str, Any]:
    """Return the description of the service whose `app` can be imported; required files are created in the folder."""
    os.environ.update(_ENVIRONMENT, AUTH_JWKS=str(lab_keys.ensure(folder / "secrets").jwks), STATE_DIR=str(folder))
    application = importlib.import_module("app.main")
    module = importlib.import_module("app.settings")
    settings_class: type[ProcessSettings] = next(
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, ProcessSettings) and kind.__module__ == module.__name__
    )
    base = ServiceSettings if issubclass(settings_class, ServiceSettings) else ProcessSettings
    service = application.create(settings_class.from_environment())
    return {
        "settings": [dataclasses.asdict(variable) for variable in settings_variables(settings_class, base)],
        "openapi": service.app.openapi(),
    }


def main() -> None:
    """Print the description of the service in this folder."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(describe(Path(folder))))


if __name__ == "__main__":
    main()
