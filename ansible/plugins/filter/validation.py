"""Filters that validate output of containers, and values for .env and for the analysis, before root uses them.

Ansible prints the message of a ValueError and fails the task.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

_SERVICES = {"account-service", "transaction-service"}
# As written by scripts/release/release.sh: optionally a registry, and always a digest.
_IMAGE = re.compile(r"[a-z0-9][A-Za-z0-9._:/-]{0,250}@sha256:[0-9a-f]{64}")
# As named by scripts/stack/revisions.py.
_REVISION = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_ID = re.compile(r"([0-9]{8}T[0-9]{6}\.[0-9]{6}Z)?")
# Cosign's messages of the network and the registry's API, and about options and keys; others are about signatures.
_REGISTRY_ERROR = re.compile(
    r"dial tcp|connection re(fused|set)|no such host|timeout|TLS handshake|x509:|server gave HTTP response|EOF"
    r"|deadline exceeded|unexpected status code|UNAUTHORIZED|DENIED|TOOMANYREQUESTS|MANIFEST_UNKNOWN|NAME_UNKNOWN"
    r"|UNAVAILABLE",
    re.IGNORECASE,
)
_USAGE_ERROR = re.compile(
    r"unknown (flag|command)|invalid argument|accepts \d|loading (verifier|public key)|PEM|panic:"
)
_PHASES = ("idle", "provisioning", "canary", "promoting", "done", "rolling-back")
_MAX_BYTES = 1024 * 1024
_MAX_TEXT = 500
_MAX_DEPTH = 8


def image_reference(value: Any) -> str:
    """Return an image reference with a digest. Raises ValueError for anything else."""
    if not isinstance(value, str) or not _IMAGE.fullmatch(value):
        raise ValueError(f"{value!r:.300} is not an image reference with a digest (registry/name@sha256:…)")
    return value


def revision(value: Any) -> str:
    """Return the revision of a configuration. Raises ValueError for anything else."""
    if not isinstance(value, str) or not _REVISION.fullmatch(value):
        raise ValueError(f"{value!r:.300} is not the revision of a configuration")
    return value


def generated_files(text: str) -> dict[str, Any]:
    """Return what scripts/stack/stack_secrets.py prints. Raises ValueError for anything else."""
    document = json.loads(text)
    if not isinstance(document, dict) or not isinstance(document.get("updated"), list):
        raise ValueError("the generator of the secrets printed something else than its result")
    revisions = _revisions(document.get("revisions"))
    if not revisions:
        raise ValueError("the generator of the secrets printed no revisions")
    return {"updated": [str(path) for path in document["updated"]], "revisions": revisions}


def versions(images: Mapping[str, str], revisions: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Return the version of each service of a rollout: its image and the revision of its configuration.

    A record of an earlier release has no revisions, which gives empty ones.
    """
    return {
        service: {"image": images[service], "revision": revisions.get(service, "")}
        for service in sorted(_SERVICES)
        if images.get(service)
    }


def version_part(versions: Mapping[str, Mapping[str, str]], part: str) -> dict[str, str]:
    """Return the images or the revisions of versions, by service."""
    return {service: version[part] for service, version in versions.items()}


def version_changes(release: Mapping[str, Mapping[str, str]], running: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return a line per changed image and configuration of the versions that a release replaces."""
    names = {"image": "image", "revision": "configuration"}
    return [
        f"{service}: {names[part]} {running.get(service, {}).get(part) or 'unknown'} → {version[part] or 'unknown'}"
        for service, version in release.items()
        for part in names
        if version[part] != running.get(service, {}).get(part)
    ]


def version_variables(
    variables: Mapping[str, Any], versions: Mapping[str, Mapping[str, str]], track: str = ""
) -> dict[str, Any]:
    """Return variables of docker-compose.yml with those of versions on a track. Raises ValueError."""
    added = {}
    for service, version in versions.items():
        name = "_".join(part for part in (service.upper().replace("-", "_"), track) if part)
        added[f"{name}_IMAGE"] = image_reference(version["image"])
        if version["revision"]:
            added[f"{name}_REVISION"] = revision(version["revision"])
    return {**variables, **added}


def dotenv(variables: Mapping[str, Any]) -> str:
    """Return the lines of an .env file, sorted by name. Raises ValueError for values with control characters."""
    return "".join(_line(name, variables[name]) for name in sorted(variables))


def dotenv_with(text: str, variables: Mapping[str, Any]) -> str:
    """Return an .env file with some variables set to new values. Raises ValueError as dotenv does."""
    lines = {name: _line(name, value) for name, value in variables.items()}
    kept = [lines.pop(line.partition("=")[0], line) for line in text.splitlines(keepends=True)]
    return "".join([*kept, *lines.values()])


def _line(name: str, value: Any) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r:.100} is not a variable name")
    if not str(value).isprintable():
        # The value may be a secret, so it is not printed.
        raise ValueError(f"{name}: its value contains a line break or another control character")
    return f"{name}={_quoted(name, str(value))}\n"


def _quoted(name: str, value: str) -> str:
    """Return a value as Compose reads it literally: in single quotes if it would expand or shorten the value."""
    if not re.search(r"\$|(^|\s)#|^[\s'\"]|[\s'\"]$|\\", value):
        return value
    if "'" in value:
        raise ValueError(f"{name}: its value contains a single quote and another special character of .env files")
    return f"'{value}'"


def signature_problem(errors: Iterable[str], service: str, release: Mapping[str, Any]) -> str:
    """Return why Cosign verified no signature of an image, given what it printed for each key.

    A registry that does not answer or a Cosign that fails does not mean that the image is not signed.
    """
    lines = [line for text in errors for line in text.splitlines() if line.strip()]
    found = [line for line in lines if line.startswith(("Error: ", "error during command execution: "))] or lines[-1:]
    reasons = "; ".join(dict.fromkeys(_sanitize(line.split(": ", 1)[-1]) for line in found)) or "Cosign printed nothing"
    if any(_REGISTRY_ERROR.search(line) for line in found):
        return f"could not be verified, because the registry did not return its signatures. Cosign: {reasons}."
    if not found or any(_USAGE_ERROR.search(line) for line in found):
        return f"could not be verified, because Cosign failed. Cosign: {reasons}."
    number, version = release["release"], release["version"]
    return f"has no valid signature as {service} of release {number} ({version}). Cosign: {reasons}."


def rollout_state(text: str) -> dict[str, Any]:
    """Return the fields of a rollout state of rollout-service that roles use, with sanitized text.

    Raises ValueError for an invalid field.
    """
    try:
        if len(text) > _MAX_BYTES:
            raise ValueError("too long")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        return {
            name: check(document[name] if name in document else default) for name, (default, check) in _FIELDS.items()
        }
    except (ValueError, RecursionError) as error:
        raise ValueError(f"rollout-service returned an invalid rollout state: {_sanitize(error)}") from error


def _one_of(*allowed: str) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if value not in allowed:
            raise ValueError(f"{value!r:.100} is not one of {', '.join(map(repr, allowed))}")
        return str(value)

    return check


def _id(value: Any) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise ValueError(f"{value!r:.100} is not a rollout id")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= 100:  # pylint: disable=unidiomatic-typecheck  # a bool is an int
        raise ValueError(f"{value!r:.100} is not an integer from 0 to 100")
    return value


def _images(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) not in (set(), _SERVICES):
        raise ValueError(f"{value!r:.300} are not the images of {' and '.join(sorted(_SERVICES))}")
    return {service: image_reference(image) for service, image in value.items()}


def _revisions(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or set(value) not in (set(), _SERVICES):
        raise ValueError(f"{value!r:.300} are not the revisions of {' and '.join(sorted(_SERVICES))}")
    return {service: revision(text) for service, text in value.items()}


def _sanitize(value: Any) -> str:
    """Return text for display: truncated, without control characters."""
    return "".join(character if character.isprintable() else " " for character in str(value)[:_MAX_TEXT])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.100} is not a string")
    return _sanitize(value)


def _sanitize_tree(value: Any, depth: int = _MAX_DEPTH) -> Any:
    """Return nested values for display with sanitized text."""
    if depth == 0:
        raise ValueError("the verdict is nested too deeply")
    if isinstance(value, dict):
        return {_sanitize(name): _sanitize_tree(item, depth - 1) for name, item in value.items()}
    if isinstance(value, list):
        return [_sanitize_tree(item, depth - 1) for item in value]
    return _sanitize(value) if isinstance(value, str) else value


def _verdict(value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(value.get("reason", ""), str):
        raise ValueError(f"{value!r:.100} is not a verdict")
    return _sanitize_tree(value)


_FIELDS: Mapping[str, tuple[Any, Callable[[Any], Any]]] = {
    "id": ("", _id),
    "phase": (None, _one_of(*_PHASES)),
    "step": (0, _number),
    "serving": ("stable", _one_of("stable", "previous")),
    "outcome": ("", _one_of("", "promoted", "rolled-back")),
    "images": ({}, _images),
    "previous": ({}, _images),
    "revisions": ({}, _revisions),
    "previous_revisions": ({}, _revisions),
    "version": ("", _text),
    "driver": ("", _text),
    "reason": ("", _text),
    "verdict": ({}, _verdict),
}


_Version = Mapping[str, str]


def running_versions(text: str, candidates: Sequence[Mapping[str, _Version]]) -> dict[str, list[dict[str, str]]]:
    """Return the versions that each service runs.

    `text` has a line "SERVICE IMAGE REVISION" per running stable replica, as Docker reports it; replicas of earlier
    releases have no revision. Raises ValueError for an image or a revision that no record of this host contains.
    """
    replicas: dict[str, list[dict[str, str]]] = {service: [] for service in sorted(_SERVICES)}
    for line in sorted(set(text.splitlines())):
        service, image, label = (*line.split(" "), "", "")[:3]
        if service not in replicas:
            continue
        trusted = [candidate[service] for candidate in candidates if service in candidate]
        images = {image_reference(candidate["image"]) for candidate in trusted}
        if image not in images or label not in {"", *(candidate["revision"] for candidate in trusted)}:
            raise ValueError(
                f"{service} runs {_sanitize(f'{image} {label}'.strip())}, which no record of this host contains"
                " (deployed.json, rollout-record.json). Stop these replicas, then deploy again"
            )
        replicas[service].append({"image": image, "revision": label and revision(label)})
    return replicas


def stable_versions(
    running: Mapping[str, Sequence[_Version]], recorded: Mapping[str, _Version], new: Mapping[str, _Version]
) -> dict[str, _Version]:
    """Return the version of each service that a rollout replaces; the new one if no other is running.

    A service without replicas has the recorded version, and a replica without a revision the recorded one.
    """
    versions: dict[str, _Version] = {}
    for service, release in new.items():
        fallback = recorded[service]["revision"] or release["revision"]
        candidates = [
            {**version, "revision": version["revision"] or fallback}
            for version in running[service] or [recorded[service]]
        ]
        others = [version for version in candidates if version != release]
        before = {**recorded[service], "revision": fallback}
        versions[service] = before if before in others else min(others, key=_sort_key, default=release)
    return versions


def _sort_key(version: _Version) -> tuple[str, str]:
    return version["image"], version["revision"]


def analysis_criteria(criteria: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return operators' own criteria of the analysis for rollout-service. Raises ValueError for an invalid one."""
    if not isinstance(criteria, list) or not all(isinstance(criterion, Mapping) for criterion in criteria):
        raise ValueError("nginx_canary_criteria is not a list of criteria")
    checked = [_criterion(criterion) for criterion in criteria]
    if repeated := [name for name, count in Counter(criterion["name"] for criterion in checked).items() if count > 1]:
        raise ValueError(f"nginx_canary_criteria: the name {repeated[0]!r} is used more than once")
    return checked


def _criterion(criterion: Mapping[str, Any]) -> dict[str, Any]:
    where = f"nginx_canary_criteria: {criterion.get('name', '(without a name)')!r:.100}"
    if unknown := set(criterion) ^ {"name", "canary", "stable", "direction", "tolerance"}:
        raise ValueError(f"{where}: {', '.join(sorted(map(str, unknown)))} is missing or not a setting")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,39}", str(criterion["name"])):
        raise ValueError(f"{where}: a name has up to 40 lower-case letters, digits and hyphens")
    for query in ("canary", "stable"):
        if not isinstance(criterion[query], str) or not criterion[query].strip():
            raise ValueError(f"{where}: the query {query} is empty")
    if criterion["direction"] not in ("higher_is_worse", "lower_is_worse"):
        raise ValueError(f"{where}: direction must be higher_is_worse or lower_is_worse")
    try:
        tolerance = float(criterion["tolerance"])
    except (TypeError, ValueError):
        tolerance = math.nan
    if not 0 <= tolerance < math.inf:
        raise ValueError(f"{where}: tolerance must be a ratio of at least 0, such as 0.2 for 20 %")
    return {**criterion, "tolerance": tolerance}


class FilterModule:  # pylint: disable=too-few-public-methods  # Ansible's interface
    """The filters of this file for Ansible."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Return the filters by name."""
        return {
            "analysis_criteria": analysis_criteria,
            "dotenv": dotenv,
            "dotenv_with": dotenv_with,
            "generated_files": generated_files,
            "image_reference": image_reference,
            "rollout_state": rollout_state,
            "running_versions": running_versions,
            "signature_problem": signature_problem,
            "stable_versions": stable_versions,
            "version_changes": version_changes,
            "version_part": version_part,
            "version_variables": version_variables,
            "versions": versions,
        }
