"""Extra variables of the command line are strings: roles convert every boolean and number where they use it."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from shared.testing.paths import ROOT

_CONDITIONS = ("when", "that", "changed_when", "failed_when", "until", "retries", "delay")
_ROLES = ROOT / "ansible" / "roles"


def _types() -> dict[str, str]:
    """Return the booleans and numbers of all roles, with the filter that converts them."""
    return {
        name: option["type"]
        for file in _ROLES.glob("*/meta/argument_specs.yml")
        for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["argument_specs"].values()
        for name, option in entry["options"].items()
        if option["type"] in ("bool", "int")
    }


def _expressions(value: Any, key: str = "") -> Iterator[str]:
    """Yield the Jinja expressions of a document: conditions, and what is in braces."""
    if isinstance(value, dict):
        for name, one in value.items():
            yield from _expressions(one, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from _expressions(one, key)
    elif isinstance(value, str):
        yield from [value] if key in _CONDITIONS else re.findall(r"\{\{.*?\}\}", value, re.DOTALL)


def unconverted(expression: str, types: dict[str, str]) -> list[str]:
    """Return the variables that an expression uses as they are."""
    return [
        name
        for name, kind in types.items()
        if re.search(rf"(?<![\w.]){name}\b(?!\s*\|\s*(default\([^)]*\)\s*\|\s*)?{kind}\b)", expression)
    ]


@pytest.mark.parametrize(
    "file",
    sorted(
        [*_ROLES.glob("*/tasks/*.yml"), *_ROLES.glob("*/handlers/*.yml"), *(ROOT / "ansible/playbooks").glob("*.yml")]
    ),
    ids=lambda file: f"{file.parts[-3]}-{file.stem}",
)
def test_booleans_and_numbers_are_converted(file: Path) -> None:
    document = yaml.safe_load(file.read_text(encoding="utf-8"))
    types = _types()
    assert types["banking_app_rehearsal"] == "bool"
    assert [(name, one) for one in _expressions(document) for name in unconverted(one, types)] == []


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("not wanted", True),
        ("wanted | default(true)", True),
        ("{{ wanted | ternary(1, 2) }}", True),
        ("wanted | bool", False),
        ("wanted | default(true) | bool", False),
        ("other.wanted and unwanted", False),
    ],
)
def test_a_variable_that_is_used_as_it_is_is_found(expression: str, found: bool) -> None:
    assert bool(unconverted(expression, {"wanted": "bool"})) is found
