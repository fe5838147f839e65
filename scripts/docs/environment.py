"""All environment variables that the project reads, and their descriptions.

Descriptions of the services' variables are in their settings classes, of the composed stack in .env, of all others in
docs/variables.toml. A test fails for variables that are read but not described, or described but not read.
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

# Variables of the shell and of every process.
_OF_THE_SHELL = {"BASH_REMATCH", "EUID", "HOME", "ID", "ID_LIKE", "PATH", "PWD", "SECONDS", "CURDIR", "MAKEFILE_LIST"}
_OF_MAKE = {"PYTHON_BIN", "MAKEFLAGS"}
_NAME = r"""["']([A-Z][A-Z0-9_]+)["']"""
_READ_BY_PYTHON = re.compile(rf"(?:\benviron(?:\.get\(|\[)|\b_number\(){_NAME}|{_NAME} (?:not )?in os\.environ")
_READ_BY_SHELL = re.compile(r"\$\{?([A-Z][A-Z0-9_]+)\b")
_SET_BY_SHELL = re.compile(r"(?:^|[\s;(])(?:export |local |read -r )?([A-Z][A-Z0-9_]+)=", re.MULTILINE)
_READ_BY_MAKE = re.compile(r"\$(?:\$\{|\((?:if )?)([A-Z][A-Z0-9_]+)")


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable, its default as written in the environment (None: required), and its description."""

    name: str
    default: str | None
    meaning: str


@dataclass(frozen=True, slots=True)
class Group:
    """A titled group of variables with a common description."""

    title: str
    about: str
    variables: list[Variable]


def settings_variables(settings: type[BaseSettings], base: type[BaseSettings]) -> list[Variable]:
    """Return the variables of a settings class without those of its base."""
    fields = {name: field for name, field in settings.model_fields.items() if name not in base.model_fields}
    return [Variable(name.upper(), _default(field), field.description or "") for name, field in fields.items()]


@cache
def service_description(service: str) -> dict[str, Any]:
    """Return the output of scripts.docs.describe_service: the settings and the OpenAPI document of a service."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "scripts.docs.describe_service"]
    printed = subprocess.run(command, cwd=ROOT / service, env=environment, capture_output=True, text=True, check=True)
    description: dict[str, Any] = json.loads(printed.stdout)
    return description


def env_file_variables(text: str) -> list[Group]:
    """Return the groups of .env: a comment and the assignments after it."""
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
            # A comment without assignments describes the whole file.
            comment = []
    return groups


def other_variables() -> list[Group]:
    """Return the groups of docs/variables.toml."""
    described = tomllib.loads(DESCRIBED.read_text(encoding="utf-8"))
    return [
        Group(group["title"], group.get("about", ""), [Variable(*variable) for variable in group["variables"]])
        for group in described["group"]
    ]


def variables_read_by_code() -> dict[str, set[str]]:
    """Return the variables that scripts, Makefile and programs read from the environment, with their files."""
    variables: dict[str, set[str]] = {}
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
            variables.setdefault(name, set()).add(str(file))
    return variables


def _read_by_shell(text: str) -> set[str]:
    code = re.sub(r"(?m)^\s*#.*$", "", text)
    # NAME=${NAME:-…} reads the variable that it sets.
    variables = set(re.findall(r"\$\{([A-Z][A-Z0-9_]+):?[-+?]", code))
    return (set(_READ_BY_SHELL.findall(code)) - set(_SET_BY_SHELL.findall(code))) | variables


def _default(field: FieldInfo) -> str | None:
    """Return a default as written in the environment; None for a required variable."""
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
