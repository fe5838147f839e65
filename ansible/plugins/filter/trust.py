"""What containers say, and what goes into .env: checked here before root acts on it.

Ansible shows the message of a ValueError and fails the task.
"""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

_SERVICES = {"account-service", "transaction-service"}
# As scripts/release/release.sh writes them: a registry's name or none, and always the digest.
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]{0,250}@sha256:[0-9a-f]{64}")
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_ID = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)?")
_PHASES = ("idle", "provisioning", "canary", "promoting", "done", "rolling-back")
_MOST_BYTES = 1024 * 1024
_MOST_TEXT = 500
_MOST_DEPTH = 8


def image_reference(value: Any) -> str:
    """Return a reference by digest. Raises ValueError for anything else."""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise ValueError(f"{value!r:.300} is no image reference with a digest (registry/name@sha256:…)")
    return value


def dotenv(variables: Mapping[str, Any]) -> str:
    """Return the lines of an .env file, sorted by name. Raises ValueError for what would not be one line each."""
    return "".join(_line(name, variables[name]) for name in sorted(variables))


def dotenv_with(text: str, variables: Mapping[str, Any]) -> str:
    """Return an .env file with other values of some of its variables. Raises ValueError as dotenv does."""
    lines = {name: _line(name, value) for name, value in variables.items()}
    kept = [lines.pop(line.partition("=")[0], line) for line in text.splitlines(keepends=True)]
    return "".join([*kept, *lines.values()])


def _line(name: str, value: Any) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100} is no name of a variable")
    if not str(value).isprintable():
        # It may be a secret.
        raise ValueError(f"{name}: its value holds a line break or another control character")
    return f"{name}={value}\n"


def rollout_state(text: str) -> dict[str, Any]:
    """Return what a role may use of a state that rollout-service wrote or printed; free text is cleaned.

    Raises ValueError for a field that is not as rollout-service writes it.
    """
    try:
        if len(text) > _MOST_BYTES:
            raise ValueError("it is too long")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("it is no object")
        return {
            name: check(document[name] if name in document else default) for name, (default, check) in _FIELDS.items()
        }
    except (ValueError, RecursionError) as error:
        raise ValueError(f"rollout-service tells no state of a rollout: {_shown(error)}") from error


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r:.100} is none of {', '.join(map(repr, allowed))}")
        return str(value)

    return check


def _id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{value!r:.100} is no number of a rollout")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 100:  # pylint: disable=unidiomatic-typecheck  # a bool is an int
        raise ValueError(f"{value!r:.100} is no whole number up to 100")
    return value


def _images(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) not in (set(), _SERVICES):
        raise ValueError(f"{value!r:.300} are not the images of {' and '.join(sorted(_SERVICES))}")
    return {service: image_reference(image) for service, image in value.items()}


def _shown(value: Any) -> str:
    """Return free text, for people: short, and without what a terminal would obey."""
    return "".join(one if one.isprintable() else " " for one in str(value)[:_MOST_TEXT])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.100} is no text")
    return _shown(value)


def _figures(value: Any, depth: int = _MOST_DEPTH) -> Any:
    """Return a verdict, which is only shown, with its texts cleaned."""
    if depth == 0:
        raise ValueError("a verdict is too deep")
    if isinstance(value, dict):
        return {_shown(name): _figures(one, depth - 1) for name, one in value.items()}
    if isinstance(value, list):
        return [_figures(one, depth - 1) for one in value]
    return _shown(value) if isinstance(value, str) else value


def _verdict(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("reason", ""), str):
        raise ValueError(f"{value!r:.100} is no verdict")
    return _figures(value)


_FIELDS: Mapping[str, tuple[Any, Callable[[Any], Any]]] = {
    "id": ("", _id),
    "phase": (None, _one_of(*_PHASES)),
    "step": (0, _number),
    "serving": ("stable", _one_of("stable", "previous")),
    "images": ({}, _images),
    "previous": ({}, _images),
    "version": ("", _text),
    "driver": ("", _text),
    "reason": ("", _text),
    "verdict": ({}, _verdict),
}


class FilterModule:  # pylint: disable=too-few-public-methods  # as Ansible asks for it
    """What Ansible looks for in this file."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "dotenv": dotenv,
            "dotenv_with": dotenv_with,
            "image_reference": image_reference,
            "rollout_state": rollout_state,
        }
