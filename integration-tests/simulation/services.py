"""Imports both services into one process although the package of each is `app`; creates their empty databases."""

import importlib
import pkgutil
import sqlite3
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlalchemy import create_engine

from shared.testing.paths import ROOT


class Modules:
    """The modules of one service by their last names: `modules.commands` is its `app.domain.commands`."""

    def __init__(self, modules: dict[str, ModuleType]) -> None:
        self._modules = modules

    def __getattr__(self, name: str) -> Any:
        return self._modules[name]


@cache
def load(service: str) -> Modules:
    """Import a service, and free the name `app` for the other one."""
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "app"}
    sys.path.insert(0, str(ROOT / service))
    try:
        for module in pkgutil.walk_packages(importlib.import_module("app").__path__, "app."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    finally:
        sys.path.remove(str(ROOT / service))
    names = [name for name in sys.modules if name.partition(".")[0] == "app"]
    modules = {name.rpartition(".")[2]: sys.modules.pop(name) for name in names}
    sys.modules.update(before)
    return Modules(modules)


def create_database(service: str, file: Path) -> None:
    """Create a database with the tables of the service, to be copied for each seed."""
    engine = create_engine(f"sqlite:///{file}")
    load(service).models.metadata.create_all(engine)
    engine.dispose()
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
