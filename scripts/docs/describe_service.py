"""Print what a service says of itself, as JSON: its own settings and its OpenAPI document.

    cd account-service && PYTHONPATH=.. python -m scripts.docs.describe_service

Each service has a package called `app`, so each is described by a process of its own (see scripts/docs/environment.py).
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
from scripts.docs.environment import of_settings
from shared.runtime.settings import ProcessSettings, ServiceSettings

# What each service insists on, one way or another; nothing is connected to.
_ENVIRONMENT = {
    "DATABASE_URL": "sqlite+aiosqlite:///nowhere.db",
    "SERVICE_TOKEN": secrets.token_hex(),
    "AUTOSCALE_TOKEN": secrets.token_hex(),
    "ACCOUNT_SERVICE_URL": "http://account-service:8000",
    "PROJECT": "bank",
}


def describe(folder: Path) -> dict[str, Any]:
    """Return the description of the service whose `app` can be imported; the folder is for what it insists on."""
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
        "settings": [dataclasses.asdict(variable) for variable in of_settings(settings_class, base)],
        "openapi": service.app.openapi(),
    }


def main() -> None:
    """Print the description of the service in this folder."""
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(describe(Path(folder))))


if __name__ == "__main__":
    main()
