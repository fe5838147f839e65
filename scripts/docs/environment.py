"""Every environment variable that the project reads: found in its code, and described for people.

Where the descriptions are: of the services in their settings classes, of the stack on Docker in .env, of everything
else in docs/variables.toml. A variable that is read and not described, or described and not read, fails a test.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from shared.testing.paths import ROOT
from shared.testing.documents import tracked

SERVICES = ("account-service", "transaction-service", "autoscale-service", "rollout-service")
DESCRIBED = ROOT / "docs" / "variables.toml"

# The shell's own, and what every program finds in its environment.
_OF_THE_SHELL = {"BASH_REMATCH", "EUID", "HOME", "ID", "ID_LIKE", "PATH", "PWD", "SECONDS", "CURDIR", "MAKEFILE_LIST"}
_OF_MAKE = {"PYTHON_BIN", "MAKEFLAGS"}
_NAME = r"""["']([A-Z][A-Z0-9_]+)["']"""
_READ_BY_PYTHON = re.compile(rf"(?:\benviron(?:\.get\(|\[)|\b_number\(){_NAME}|{_NAME} (?:not )?in os\.environ")
_READ_BY_SHELL = re.compile(r"\$\{?([A-Z][A-Z0-9_]+)\b")
_SET_BY_SHELL = re.compile(r"(?:^|[\s;(])(?:export |local |read -r )?([A-Z][A-Z0-9_]+)=", re.MULTILINE)
_READ_BY_MAKE = re.compile(r"\$(?:\$\{|\((?:if )?)([A-Z][A-Z0-9_]+)")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, its default as people write it (None: it has to be set), and what it is for."""

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Group:
    """Variables that belong together, and what is true of all of them."""

    title: str
    about: str
    variables: list[Variable]


def of_settings(settings: type[BaseSettings], base: type[BaseSettings]) -> list[Variable]:
    """Return the variables that a class of settings has and its base has not."""
    own = {name: field for name, field in settings.model_fields.items() if name not in base.model_fields}
    return [Variable(name.upper(), _default(field), field.description or "") for name, field in own.items()]


@cache
def of_service(service: str) -> dict[str, Any]:
    """Return what scripts.docs.describe_service tells of a service: its settings and its OpenAPI document."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "scripts.docs.describe_service"]
    printed = subprocess.run(command, cwd=ROOT / service, env=environment, capture_output=True, text=True, check=True)
    told: dict[str, Any] = json.loads(printed.stdout)
    return told


def of_env_file(text: str) -> list[Group]:
    """Return the groups of .env: comments, and the assignments that follow them."""
    groups: list[Group] = []
    comment: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            comment.append(line.removeprefix("#").strip())
        elif "=" in line:
            name, _, default = line.partition("=")
            if comment or not groups:
                groups.append(Group("", " ".join(comment), []))
                comment = []
            groups[-1].variables.append(Variable(name, default, ""))
        else:
            # A paragraph without assignments is about the whole file.
            comment = []
    return groups


def of_everything_else() -> list[Group]:
    """Return what docs/variables.toml describes."""
    found = tomllib.loads(DESCRIBED.read_text(encoding="utf-8"))
    return [
        Group(group["title"], group.get("about", ""), [Variable(*variable) for variable in group["variables"]])
        for group in found["group"]
    ]


def read_by_code() -> dict[str, set[str]]:
    """Return every variable that scripts, Makefile and programs read from their environment, with the files that do."""
    found: dict[str, set[str]] = {}
    for file in tracked():
        text = (ROOT / file).read_text(encoding="utf-8", errors="replace")
        if "tests" in file.parts:
            continue
        if file.name == "Makefile":
            names = set(_READ_BY_MAKE.findall(text)) - _OF_MAKE
        elif file.suffix == ".py":
            names = {name for match in _READ_BY_PYTHON.findall(text) for name in match if name}
        elif (file.suffix == ".sh" and file.parts[0] in ("scripts", "load-tests")) or file == Path(".ci/run"):
            names = _read_by_shell(text)
        else:
            continue
        for name in names - _OF_THE_SHELL:
            found.setdefault(name, set()).add(str(file))
    return found


def _read_by_shell(text: str) -> set[str]:
    code = re.sub(r"(?m)^\s*#.*$", "", text)
    # What a file sets from itself (NAME=${NAME:-…}) it reads all the same.
    given = set(re.findall(r"\$\{([A-Z][A-Z0-9_]+):?[-+?]", code))
    return (set(_READ_BY_SHELL.findall(code)) - set(_SET_BY_SHELL.findall(code))) | given


def _default(field: FieldInfo) -> str | None:
    """Return a default as it would be written in the environment; None for a variable that has to be set."""
    if field.is_required():
        return None
    value = field.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, frozenset):
        return json.dumps(sorted(value))
    if isinstance(value, tuple):
        return json.dumps(list(value))
    return "" if value is None else str(value)
