"""Generate the JSON Schemas of the events: python -m scripts.docs.generate_schemas [--check] [--base REF]

Without arguments the files in shared/schemas are written. With --check nothing is written; exits 1 if a file is out of
date, or if the models are incompatible with the schemas of a git revision (default HEAD; --base names another, such as
the target branch of a pull request).

Compatible means that stored events stay valid and that consumers find all properties: properties may be added, but not
removed, made required, or restricted to fewer values.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.testing.paths import ROOT
from shared.events import DATA_MODELS, CloudEvent

FOLDER = ROOT / "shared" / "schemas"

Schema = dict[str, Any]

# A new schema accepts fewer values if its lower limit is higher, or its upper limit lower, than the old one.
_LOWER_LIMITS = ("minLength", "minItems", "minimum", "exclusiveMinimum")
_UPPER_LIMITS = ("maxLength", "maxItems", "maximum", "exclusiveMaximum")


def generate(type_: str) -> Schema:
    """Return the JSON Schema of an event: the envelope with the data of this type."""
    schema = CloudEvent.model_json_schema()
    name = f"urn:bank:schema:{type_}:1"
    schema["properties"] |= {
        "type": {"const": type_, "type": "string"},
        "datacontenttype": {"const": "application/json", "type": "string"},
        "dataschema": {"const": name, "type": "string"},
        "data": DATA_MODELS[type_].model_json_schema(),
    }
    schema["required"] += ["datacontenttype", "dataschema"]
    schema["title"] = type_
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": name, **schema}


def render(schema: Schema) -> str:
    """Return the text of the schema's file."""
    return json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def incompatibilities(old: Schema, new: Schema, field: str = "event") -> list[str]:
    """Return the incompatible changes between two schemas, each with its field."""
    found: list[str] = []
    for before in _alternatives(old):
        candidates = [after for after in _alternatives(new) if _same_type(before, after)]
        if not candidates:
            found.append(f"{field}: no longer accepts {before.get('type', 'any type')}")
            continue
        differences = [list(_differences(before, after, field)) for after in candidates]
        smallest: list[str] = min(differences, key=len)
        found += smallest
    return found


def _alternatives(schema: Schema) -> list[Schema]:
    """Return the schema as alternatives of one type each."""
    if "anyOf" in schema:
        return [alternative for option in schema["anyOf"] for alternative in _alternatives(option)]
    types = schema.get("type")
    return [{**schema, "type": type_} for type_ in types] if isinstance(types, list) else [schema]


def _same_type(old: Schema, new: Schema) -> bool:
    types = old.get("type"), new.get("type")
    return types[1] is None or types[0] == types[1] or types == ("integer", "number")


def _differences(old: Schema, new: Schema, field: str) -> Iterator[str]:
    yield from _lost_values(old, new, field)
    for keyword in ("format", "pattern"):
        if keyword in new and new[keyword] != old.get(keyword):
            yield f"{field}: {keyword} is now {new[keyword]!r}"
    for keyword in (*_LOWER_LIMITS, *_UPPER_LIMITS):
        if keyword in new and _is_tighter(keyword, old.get(keyword), new[keyword]):
            yield f"{field}: {keyword} is now {new[keyword]}"
    properties, former = new.get("properties", {}), old.get("properties", {})
    for name in former.keys() - properties.keys():
        yield f"{field}.{name}: removed"
    for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
        yield f"{field}.{name}: newly required"
    if new.get("additionalProperties") is False and old.get("additionalProperties") is not False:
        yield f"{field}: no longer accepts unknown properties"
    for name in sorted(former.keys() & properties.keys()):
        yield from incompatibilities(former[name], properties[name], f"{field}.{name}")
    if "items" in new:
        yield from incompatibilities(old.get("items", {}), new["items"], f"{field}[]")


def _lost_values(old: Schema, new: Schema, field: str) -> Iterator[str]:
    before, after = _values(old), _values(new)
    if after is None:
        return
    if before is None:
        yield f"{field}: now only accepts {', '.join(map(repr, after))}"
    elif lost := [value for value in before if value not in after]:
        yield f"{field}: no longer accepts {', '.join(map(repr, lost))}"


def _values(schema: Schema) -> list[Any] | None:
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _is_tighter(keyword: str, old: float | None, new: float) -> bool:
    if old is None:
        return True
    return new > old if keyword in _LOWER_LIMITS else new < old


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def committed(revision: str) -> dict[str, Schema]:
    """Return the schemas of a git revision by event type. Raises CalledProcessError, OSError."""
    folder = FOLDER.relative_to(ROOT).as_posix()
    files = _git("ls-tree", "--name-only", revision, f"{folder}/").split()
    return {Path(file).stem: json.loads(_git("show", f"{revision}:{file}")) for file in files}


def check(base: dict[str, Schema]) -> list[str]:
    """Return the files that are out of date, and the incompatible changes of the models since the base."""
    problems = []
    for type_ in sorted({*DATA_MODELS, *(file.stem for file in FOLDER.glob("*.json"))}):
        file = FOLDER / f"{type_}.json"
        expected = render(generate(type_)) if type_ in DATA_MODELS else None
        if expected != (file.read_text(encoding="utf-8") if file.exists() else None):
            problems.append(f"{file.relative_to(ROOT)} is out of date; run: make schemas")
    for type_, old in sorted(base.items()):
        if type_ not in DATA_MODELS:
            problems.append(f"{type_}: the event has been removed")
        else:
            problems += [f"{type_}: {problem}" for problem in incompatibilities(old, generate(type_))]
    return problems


def write() -> None:
    """Write the schema files of all events and remove others."""
    for file in FOLDER.glob("*.json"):
        file.unlink()
    for type_ in DATA_MODELS:
        (FOLDER / f"{type_}.json").write_text(render(generate(type_)), encoding="utf-8")


def main() -> int:
    """Write or check the schemas."""
    parser = argparse.ArgumentParser(prog="generate_schemas", description="Generate the JSON Schemas of the events.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a schema is wrong")
    parser.add_argument("--base", help="git revision to be compatible with (default HEAD)")
    arguments = parser.parse_args()
    if not arguments.check:
        write()
        return 0
    try:
        base = committed(arguments.base or "HEAD")
    except (OSError, subprocess.CalledProcessError):
        if arguments.base:
            print(f"schemas: unknown git revision {arguments.base}", file=sys.stderr)
            return 1
        base = {}
    problems = check(base)
    for problem in problems:
        print(f"schemas: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
