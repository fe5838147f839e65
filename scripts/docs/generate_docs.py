"""Generate parts of the documentation: python -m scripts.docs.generate_docs [--check]

The parts between `<!-- generated: NAME -->` and `<!-- end of NAME -->` in docs/configuration.md, docs/api.md and
docs/problems.md, and all of docs/asyncapi.json. --check writes nothing and exits 1 when a file is out of date.
"""

import argparse
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from scripts.docs import environment
from scripts.docs.environment import Group, Variable
from shared.testing.paths import ROOT
from shared.http import problem_pages
from shared.events import BATCH_MEDIA_TYPE, DATA_MODELS, OF_TRANSACTION_SERVICE, CloudEvent
from shared.messaging.streams import batch_subject
from shared.runtime.settings import ProcessSettings, ServiceSettings

CONFIGURATION, API, PROBLEMS = Path("docs/configuration.md"), Path("docs/api.md"), Path("docs/problems.md")
ASYNCAPI = Path("docs/asyncapi.json")
PUBLIC = environment.SERVICES[:2]

Description = dict[str, Any]


def generated() -> dict[Path, str]:
    """Return the current text of each file that is generated in whole or in part."""
    services = {service: environment.service_description(service) for service in environment.SERVICES}
    parts = {"settings": _settings(services), "variables": _variables()}
    api_parts = {**{service: _operations(services[service]["openapi"]) for service in PUBLIC}, "events": _events()}
    return {
        CONFIGURATION: with_parts((ROOT / CONFIGURATION).read_text(encoding="utf-8"), parts),
        API: with_parts((ROOT / API).read_text(encoding="utf-8"), api_parts),
        PROBLEMS: with_parts((ROOT / PROBLEMS).read_text(encoding="utf-8"), {"problems": _problems()}),
        ASYNCAPI: json.dumps(asyncapi(), indent=2, ensure_ascii=False) + "\n",
    }


def with_parts(text: str, parts: dict[str, str]) -> str:
    """Return a document with its generated parts replaced. Raises ValueError if it lacks the markers of a part."""
    for name, part in parts.items():
        begin, end = f"<!-- generated: {name} -->\n", f"<!-- end of {name} -->"
        before, marker, rest = text.partition(begin)
        _, ended, after = rest.partition(end)
        if not (marker and ended):
            raise ValueError(f"the markers of the generated part {name} are missing")
        text = f"{before}{begin}\n{part.strip()}\n\n{end}{after}"
    return text


# Tables ---------------------------------------------------------------------------------------------------------------


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(head)]
    lines += [["---"] * len(lines[0]), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line).rstrip() + " |" for line in lines)


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _variable_rows(variables: Iterable[Variable]) -> list[list[str]]:
    return [
        [_code(variable.name), "required" if variable.default is None else _code(variable.default), variable.meaning]
        for variable in variables
    ]


def _settings(services: dict[str, Description]) -> str:
    variables = environment.settings_variables(ProcessSettings, BaseSettings)
    common = [variable for variable in variables if variable.name != "SERVICE"]
    both = environment.settings_variables(ServiceSettings, ProcessSettings)
    groups = [
        Group("Every service", "", common),
        Group("account-service and transaction-service", "", both),
        *(
            Group(name, "", [Variable(**setting) for setting in description["settings"]])
            for name, description in services.items()
        ),
    ]
    return "\n\n".join(
        f"### {group.title}\n\n{_table(['variable', 'default', 'description'], _variable_rows(group.variables))}"
        for group in groups
    )


def _variables() -> str:
    text = ["### Composed stack: `.env`"]
    for group in environment.env_file_variables((ROOT / ".env").read_text(encoding="utf-8")):
        rows = [[_code(variable.name), _code(variable.default or "")] for variable in group.variables]
        text += [group.about, _table(["variable", "default"], rows)]
    for group in environment.other_variables():
        table = _table(["variable", "default", "description"], _variable_rows(group.variables))
        text += [f"### {group.title}", group.about, table]
    return "\n\n".join(text)


def _problems() -> str:
    rows = [
        [_code(code), str(kind.status), problem_pages.ADVICE[code].meaning, problem_pages.ADVICE[code].remedy]
        for code, kind in problem_pages.problem_types().items()
    ]
    return _table(["code", "status", "meaning", "what to do"], rows)


# The HTTP API ---------------------------------------------------------------------------------------------------------


def _operations(openapi: Description) -> str:
    rows = [
        [f"`{method.upper()} {path}`", _prose(operation["description"]), _parameters(operation), _responses(operation)]
        for path, operations in openapi["paths"].items()
        for method, operation in operations.items()
    ]
    return _table(["operation", "description", "parameters", "responses"], rows)


def _prose(docstring: str) -> str:
    return " ".join(docstring.split())


def _parameters(operation: Description) -> str:
    """Return the parameters of query and body, optional ones with `?`; without path parameters and headers."""
    query = [f"{parameter['name']}?" for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]
    content = operation.get("requestBody", {}).get("content", {})
    schema = content.get("application/json", {}).get("schema", {})
    required = set(schema.get("required", ()))
    body = [name if name in required else f"{name}?" for name in schema.get("properties", {})]
    return ", ".join(_code(name) for name in [*query, *body])


def _responses(operation: Description) -> str:
    successes = [status for status in operation["responses"] if status < "3"]
    errors = [status for status in operation["responses"] if status >= "4"]
    return ", ".join(successes) + (f"; {', '.join(errors)}" if errors else "")


# Events ---------------------------------------------------------------------------------------------------------------


def _events() -> str:
    rows = [
        [
            f"[`{type_}`](../shared/schemas/{type_}.json)",
            _source(type_),
            _prose(model.__doc__ or ""),
            ", ".join(_code(name) for name in model.model_fields),
        ]
        for type_, model in DATA_MODELS.items()
    ]
    return _table(["type", "source", "description", "fields of `data`"], rows)


def _source(type_: str) -> str:
    return "transaction-service" if type_ in OF_TRANSACTION_SERVICE else "account-service"


def asyncapi() -> Description:
    """Return the AsyncAPI 3.0 document of the events: a channel per service, with arrays of its events as messages."""
    channels, operations, messages = {}, {}, {}
    for service in PUBLIC:
        subject = batch_subject(service)
        types = [type_ for type_ in DATA_MODELS if _source(type_) == service]
        messages[service] = {
            "name": service,
            "contentType": BATCH_MEDIA_TYPE,
            "summary": f"Consecutive events of {service}: " + ", ".join(types),
            "headers": {
                "type": "object",
                "properties": {"First-Position": {"type": "string", "description": "Position of the first event."}},
            },
            "payload": {
                "type": "array",
                "items": {"oneOf": [{"$ref": f"../shared/schemas/{type_}.json"} for type_ in types]},
            },
        }
        channels[service] = {"address": subject, "messages": {service: {"$ref": f"#/components/messages/{service}"}}}
        operations[f"{service} sends its events"] = {
            "action": "send",
            "channel": {"$ref": f"#/channels/{service}"},
            "messages": [{"$ref": f"#/channels/{service}/messages/{service}"}],
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Events of distributed-banking-ops",
            "version": "2.0.0",
            "description": (
                "CloudEvents 1.0 in JSON batches on NATS JetStream: at least once, in any order. Each service also"
                " serves its events at /internal/events. " + _prose(CloudEvent.__doc__ or "")
            ),
            "license": {"name": "MIT"},
        },
        "defaultContentType": BATCH_MEDIA_TYPE,
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages},
    }


# Writing and checking -------------------------------------------------------------------------------------------------


def stale() -> list[str]:
    """Return the files that are out of date."""
    return [
        str(path)
        for path, text in generated().items()
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != text
    ]


def main() -> int:
    """Write or check the generated parts."""
    parser = argparse.ArgumentParser(prog="generate_docs", description="Generate parts of the documentation.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail if a file is out of date")
    arguments = parser.parse_args()
    if arguments.check:
        outdated = stale()
        for name in outdated:
            print(f"docs: {name} is out of date; run: make docs", file=sys.stderr)
        return 1 if outdated else 0
    for path, text in generated().items():
        (ROOT / path).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
