"""Generate the operations and models of the Python client: python -m scripts.docs.generate_client

openapi-python-client writes them to `clients/python/banking_client` from the OpenAPI documents of both services, which
`client_document` adapts to what a client needs (docs/adr/0028-generated-client.md).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scripts.docs import environment
from shared.testing.paths import ROOT

CLIENT = ROOT / "clients" / "python"
PACKAGE = CLIENT / "banking_client"
# Generated as a whole; all other modules of the package are written by hand.
PARTS = ("api", "models", "types.py")
_METADATA = {
    "type": "object",
    "title": "Metadata",
    "description": "Texts of the client, by name.",
    "additionalProperties": {"type": "string"},
}
_SCHEMAS = "#/components/schemas/"

Document = dict[str, Any]


def client_document(documents: dict[str, Document]) -> Document:
    """Return one OpenAPI document of the operations of all services, by service.

    Operations have the name of their function and the tag of their service. Errors are omitted because the client
    raises them, and an Idempotency-Key is optional because the client makes one. Raises ValueError if two operations or
    bodies have the same name.
    """
    paths: Document = {}
    schemas: Document = {"Metadata": _METADATA}
    for service, document in documents.items():
        own = _with_distinct_names(document, schemas)
        schemas |= {name: {**_plain(schema), "title": name} for name, schema in own["components"]["schemas"].items()}
        for path, operations in own["paths"].items():
            for method, operation in operations.items():
                adapted = _plain(_operation(path, method, operation))
                _adapt_body(adapted, schemas)
                _add(paths.setdefault(path, {}), method, {**adapted, "tags": [service.replace("-", "_")]})
    return {
        "openapi": "3.1.0",
        "info": {"title": "distributed-banking-ops", "version": "1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _add(target: Document, name: str, value: Document) -> None:
    if target.setdefault(name, value) != value:
        raise ValueError(f"{name} is defined twice and differently: {value}; rename one of the two")


def _with_distinct_names(document: Document, taken: Document) -> Document:
    """Return the document with `History` before the names of schemas that another service has, too."""
    schemas = document["components"]["schemas"]
    names = {name: f"History{name}" if name in taken else name for name in schemas}
    text = json.dumps({"paths": document["paths"], "schemas": schemas})
    renamed = json.loads(re.sub(rf'"{_SCHEMAS}(\w+)"', lambda found: f'"{_SCHEMAS}{names[found[1]]}"', text))
    own = {names[name]: schema for name, schema in renamed["schemas"].items()}
    return {"paths": renamed["paths"], "components": {"schemas": own}}


def _operation(path: str, method: str, operation: Document) -> Document:
    """Return the operation with the name of its function, its successful JSON responses, and headers as options."""
    name = operation["operationId"].removesuffix(re.sub(r"\W", "_", path) + f"_{method}")
    parameters = [
        {**parameter, "required": parameter["required"] and parameter["in"] != "header"}
        for parameter in operation.get("parameters", ())
    ]
    successes = {status: _json_only(found) for status, found in operation["responses"].items() if status < "3"}
    return {**operation, "operationId": name, "parameters": parameters, "responses": successes}


def _json_only(response: Document) -> Document:
    """Return a response without its other formats, which a function that returns a model cannot ask for."""
    content = response.get("content", {})
    return {**response, "content": {"application/json": content["application/json"]}} if len(content) > 1 else response


def _adapt_body(operation: Document, schemas: Document) -> None:
    """Remove a body without fields; move the schemas of others to the named ones, which operations share."""
    if "requestBody" not in operation:
        return
    content = operation["requestBody"]["content"]["application/json"]
    if not {"$ref", "properties"} & content["schema"].keys() or content["schema"].get("properties") == {}:
        del operation["requestBody"]
        return

    def move(node: Document) -> Document:
        if "title" not in node or "properties" not in node:
            return node
        _add(schemas, node["title"], node)
        return {"$ref": f"{_SCHEMAS}{node['title']}"}

    content["schema"] = _map(content["schema"], move)


def _plain(schema: Document) -> Document:
    """Return a schema with ids as text, one type for all metadata, and no restrictions that a later release may lift.

    It has no lists of values, and unknown fields are ignored.
    """

    def convert(node: Document) -> Document:
        node = {name: value for name, value in node.items() if name not in ("enum", "const")}
        if node.get("format") == "uuid":
            del node["format"]
        if node.get("title") == "Metadata":
            node["anyOf"] = [{"$ref": f"{_SCHEMAS}Metadata"}, {"type": "null"}]
        return {"additionalProperties": False, **node} if "properties" in node else node

    converted: Document = _map(schema, convert)
    return converted


def _map(node: Any, convert: Callable[[Document], Document]) -> Any:
    """Return a JSON value with every object converted, the innermost first."""
    if isinstance(node, list):
        return [_map(item, convert) for item in node]
    if isinstance(node, dict):
        return convert({name: _map(value, convert) for name, value in node.items()})
    return node


def generated() -> dict[Path, str]:
    """Return the generated modules, by path within the package.

    Raises CalledProcessError if the generator fails or cannot generate an operation.
    """
    documents = {service: environment.service_description(service)["openapi"] for service in environment.SERVICES[:2]}
    with tempfile.TemporaryDirectory() as work:
        document, output = Path(work) / "openapi.json", Path(work) / "generated"
        document.write_text(json.dumps(client_document(documents)), encoding="utf-8")
        programs = Path(sys.executable).parent
        command = [str(programs / "openapi-python-client"), "generate", "--meta=none", "--fail-on-warning"]
        options = {"path": document, "output-path": output, "config": CLIENT / "generator.yml"}
        options["custom-template-path"] = CLIENT / "templates"
        arguments = [f"--{name}={value}" for name, value in options.items()]
        # The generator runs ruff from the path.
        variables = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        subprocess.run([*command, *arguments], env=variables, check=True, stdout=subprocess.DEVNULL)
        return _modules(output)


def _modules(package: Path) -> dict[Path, str]:
    files = [file for part in PARTS for file in (package / part, *(package / part).rglob("*.py")) if file.is_file()]
    return {file.relative_to(package): file.read_text(encoding="utf-8") for file in files}


def stale() -> list[Path]:
    """Return the modules of the client that are missing, out of date or left over."""
    new, old = generated(), _modules(PACKAGE)
    return sorted(file for file in new.keys() | old.keys() if new.get(file) != old.get(file))


def main() -> None:
    """Replace the generated modules of the client."""
    modules = generated()
    for part in ("api", "models"):
        shutil.rmtree(PACKAGE / part, ignore_errors=True)
    for file, text in modules.items():
        (PACKAGE / file).parent.mkdir(parents=True, exist_ok=True)
        (PACKAGE / file).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
