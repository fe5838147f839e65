"""The OpenAPI documents of the services become one document of a client; modules that are out of date are found."""

from pathlib import Path
from typing import Any

import pytest

from scripts.docs import generate_client
from scripts.docs.generate_client import client_document

SCHEMAS = "#/components/schemas/"


def operation(path: str, name: str, **members: Any) -> dict[str, Any]:
    """Return the paths of a service with one operation, whose id is as FastAPI makes it."""
    words = path.replace("/", "_").replace("{", "_").replace("}", "_")
    success = {"content": {"application/json": {"schema": {"$ref": f"{SCHEMAS}View"}}}}
    responses = {"200": success, "409": success}
    return {path: {"post": {"operationId": f"{name}{words}_post", "responses": responses, **members}}}


def document(paths: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"paths": paths, "components": {"schemas": {"View": {"type": "object", "properties": fields}}}}


def body(**fields: Any) -> dict[str, Any]:
    schema = {"title": "Body", "type": "object", "properties": fields}
    return {"requestBody": {"content": {"application/json": {"schema": schema}}}}


def test_operations_of_both_services_have_short_names_and_no_errors() -> None:
    key = {"name": "Idempotency-Key", "in": "header", "required": True}
    merged = client_document(
        {
            "account-service": document(operation("/a/{id}", "open_it", parameters=[key])),
            "transaction-service": document(operation("/b", "read_it")),
        }
    )
    first, second = merged["paths"]["/a/{id}"]["post"], merged["paths"]["/b"]["post"]
    assert (first["operationId"], first["tags"]) == ("open_it", ["account_service"])
    assert (second["operationId"], second["tags"]) == ("read_it", ["transaction_service"])
    assert list(first["responses"]) == ["200"] and first["parameters"] == [{**key, "required": False}]


def test_schemas_of_the_same_name_stay_apart() -> None:
    services = {"account-service": document(operation("/a", "a"), id={}), "transaction-service": document({}, seq={})}
    services["transaction-service"]["paths"] = operation("/b", "b")
    merged = client_document(services)
    schemas = merged["components"]["schemas"]
    assert set(schemas["View"]["properties"]) == {"id"} and set(schemas["HistoryView"]["properties"]) == {"seq"}
    [response] = merged["paths"]["/b"]["post"]["responses"].values()
    assert response["content"]["application/json"]["schema"]["$ref"] == f"{SCHEMAS}HistoryView"


def test_models_accept_values_and_fields_of_later_releases() -> None:
    fields = {
        "status": {"type": "string", "enum": ["a"]},
        "id": {"type": "string", "format": "uuid"},
        "metadata": {"title": "Metadata", "anyOf": [{"type": "object", "maxProperties": 20}, {"type": "null"}]},
    }
    view = client_document({"account-service": document(operation("/a", "a"), **fields)})["components"]["schemas"][
        "View"
    ]
    assert view["additionalProperties"] is False
    assert view["properties"]["status"] == view["properties"]["id"] == {"type": "string"}
    assert view["properties"]["metadata"]["anyOf"] == [{"$ref": f"{SCHEMAS}Metadata"}, {"type": "null"}]


def test_bodies_are_shared_by_name_and_omitted_if_empty() -> None:
    paths = {**operation("/a", "a", **body(amount={})), **operation("/b", "b", **body(amount={}))}
    merged = client_document({"account-service": document({**paths, **operation("/c", "c", **body())})})
    assert set(merged["components"]["schemas"]["Body"]["properties"]) == {"amount"}
    content = merged["paths"]["/b"]["post"]["requestBody"]["content"]["application/json"]
    assert content["schema"] == {"$ref": f"{SCHEMAS}Body"}
    assert "requestBody" not in merged["paths"]["/c"]["post"]
    other = {**paths, **operation("/c", "c", **body(sum={}))}
    with pytest.raises(ValueError, match="Body is defined twice and differently"):
        client_document({"account-service": document(other)})


def test_a_body_within_a_body_is_the_same_class() -> None:
    inner = body(amount={})["requestBody"]["content"]["application/json"]["schema"]
    group = body(legs={"type": "array", "items": inner})
    group["requestBody"]["content"]["application/json"]["schema"]["title"] = "Group"
    merged = client_document(
        {"account-service": document({**operation("/a", "a", **body(amount={})), **operation("/b", "b", **group)})}
    )
    schemas = merged["components"]["schemas"]
    assert schemas["Group"]["properties"]["legs"]["items"] == {"$ref": f"{SCHEMAS}Body"}
    assert set(schemas["Body"]["properties"]) == {"amount"}


def test_only_the_json_of_a_response_is_parsed() -> None:
    paths = operation("/a", "a")
    paths["/a"]["post"]["responses"]["200"]["content"]["text/csv"] = {}
    [response] = client_document({"a": document(paths)})["paths"]["/a"]["post"]["responses"].values()
    assert list(response["content"]) == ["application/json"]


def test_missing_changed_and_left_over_modules_are_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_client, "PACKAGE", tmp_path)
    modules = {Path("types.py"): "new\n", Path("api/__init__.py"): "\n", Path("models/missing.py"): "\n"}
    monkeypatch.setattr(generate_client, "generated", lambda: modules)
    for file, text in (
        ("types.py", "old\n"),
        ("api/__init__.py", "\n"),
        ("models/left_over.py", "\n"),
        ("client.py", ""),
    ):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(text, encoding="utf-8")
    assert generate_client.stale() == [Path("models/left_over.py"), Path("models/missing.py"), Path("types.py")]
    generate_client.main()
    assert generate_client.stale() == [] and (tmp_path / "client.py").exists()
