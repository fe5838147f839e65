"""The events' JSON Schemas are up to date, validate events, and have no incompatible changes."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from scripts.docs import generate_schemas
from scripts.docs.generate_schemas import generate, incompatibilities, render
from shared.events import DATA_MODELS, CloudEvent, new_event
from shared.ids import utc_now

Schema = dict[str, Any]
ENTRY = "bank.entry.posted"


def main(*arguments: str) -> int:
    """Run the program."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["generate_schemas", *arguments])
        return generate_schemas.main()


def test_the_files_are_what_the_models_say_and_compatible_with_the_last_commit() -> None:
    assert main("--check") == 0
    assert {file.stem for file in generate_schemas.FOLDER.glob("*.json")} == set(DATA_MODELS)


def test_an_event_obeys_its_schema_and_an_altered_one_does_not() -> None:
    data = {"transaction_id": "t", "account_id": "a", "rule": "r", "score": 1, "action": "review"}
    flagged = "bank.transaction.flagged"
    event = new_event(source="s", type_=flagged, subject="a", time=utc_now(), data=data, request_id="r")
    validator = jsonschema.Draft202012Validator(generate(flagged), format_checker=jsonschema.FormatChecker())
    validator.validate(event)
    CloudEvent.model_validate(event)
    for wrong in (
        {**event, "data": {**data, "action": "ban"}},
        {**event, "data": {**data, "score": 0.5}},
        {**event, "dataschema": "urn:bank:schema:other:1"},
        {name: value for name, value in event.items() if name != "id"},
    ):
        assert not validator.is_valid(wrong)


def test_values_may_be_added_and_not_removed() -> None:
    opened = "bank.account.opened"
    schema = copy.deepcopy(generate(opened))
    statuses = schema["properties"]["data"]["properties"]["status"]["enum"]
    statuses.append("dormant")
    assert incompatibilities(generate(opened), schema) == []
    statuses.remove("frozen")
    assert incompatibilities(generate(opened), schema) == ["event.data.status: no longer accepts 'frozen'"]


def changed(change: Callable[[Schema, Schema], object]) -> list[str]:
    """Return what a change of the envelope and the data of an entry breaks."""
    schema = copy.deepcopy(generate(ENTRY))
    change(schema, schema["properties"]["data"])
    return incompatibilities(generate(ENTRY), schema)


BREAKING: dict[str, Callable[[Schema, Schema], object]] = {
    "event.data.reference: removed": lambda envelope, data: data["properties"].pop("reference"),
    "event.data.note: newly required": lambda envelope, data: (
        data["properties"].update(note={"type": "string"}),
        data["required"].append("note"),
    ),
    "event.traceparent: newly required": lambda envelope, data: envelope["required"].append("traceparent"),
    "event.data.amount: no longer accepts integer": lambda envelope, data: data["properties"].update(
        amount={"type": "string"}
    ),
    "event.data.reference: no longer accepts null": lambda envelope, data: data["properties"].update(
        reference={"type": "string"}
    ),
    "event.data.currency: now only accepts 'USD'": lambda envelope, data: data["properties"]["currency"].update(
        const="USD"
    ),
    "event.data.currency: maxLength is now 3": lambda envelope, data: data["properties"]["currency"].update(
        maxLength=3
    ),
    "event.id: maxLength is now 36": lambda envelope, data: envelope["properties"]["id"].update(maxLength=36),
    "event.id: minLength is now 2": lambda envelope, data: envelope["properties"]["id"].update(minLength=2),
    "event.data.account_id: format is now 'uuid'": lambda envelope, data: data["properties"]["account_id"].update(
        format="uuid"
    ),
    "event.data: no longer accepts unknown properties": lambda envelope, data: data.update(additionalProperties=False),
    "event.dataschema: no longer accepts 'urn:bank:schema:bank.entry.posted:1'": lambda envelope, data: envelope[
        "properties"
    ]["dataschema"].update(const="urn:bank:schema:bank.entry.posted:2"),
}


@pytest.mark.parametrize(("message", "change"), BREAKING.items())
def test_a_change_that_breaks_consumers_is_named(message: str, change: Callable[[Schema, Schema], object]) -> None:
    assert changed(change) == [message]


@pytest.mark.parametrize(
    "change",
    [
        lambda envelope, data: data["properties"].update(note={"type": "string"}),
        lambda envelope, data: envelope["properties"].update(extension={"type": "integer"}),
        lambda envelope, data: data["properties"].update(amount={"type": "number"}),
        lambda envelope, data: data["properties"].update(amount={"type": ["integer", "null"]}),
        lambda envelope, data: data["properties"].update(amount={"description": "anything"}),
        lambda envelope, data: envelope["properties"]["id"].update(maxLength=300),
        lambda envelope, data: data["required"].remove("reference"),
        lambda envelope, data: data.update(description="new words"),
    ],
)
def test_a_compatible_change_is_accepted(change: Callable[[Schema, Schema], object]) -> None:
    assert changed(change) == []


def test_lists_are_compared_by_what_they_hold() -> None:
    old = {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "string"}}}}
    assert incompatibilities(old, {"type": "array", "items": {"type": "object"}}) == ["event[].a: removed"]
    assert incompatibilities(old, {"type": "array"}) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of schemas as committed."""
    folder = tmp_path / "shared" / "schemas"
    folder.mkdir(parents=True)
    monkeypatch.setattr(generate_schemas, "ROOT", tmp_path)
    monkeypatch.setattr(generate_schemas, "FOLDER", folder)
    generate_schemas.write()
    return folder


def test_the_check_fails_for_files_that_are_stale_missing_or_of_no_event(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main("--check") == 0
    (folder / f"{ENTRY}.json").write_text("{}")
    (folder / "bank.hold.voided.json").unlink()
    (folder / "bank.unknown.json").write_text("{}")
    assert main("--check") == 1
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in lines] == [
        f"shared/schemas/{name}.json" for name in (ENTRY, "bank.hold.voided", "bank.unknown")
    ]
    assert all("make schemas" in line for line in lines)
    assert main() == 0 and main("--check") == 0
    assert not (folder / "bank.unknown.json").exists()


def test_the_check_names_event_and_field_of_what_breaks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The models lack properties of the last commit; the files on disk are up to date with the models."""
    old = generate(ENTRY)
    old["properties"]["data"]["properties"]["fee"] = {"type": "integer"}
    removed = generate("bank.hold.voided")
    committed = {ENTRY: old, "bank.hold.shared": removed}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generate_schemas, "committed", lambda revision: committed if revision == "main" else {})
        assert main("--check", "--base", "main") == 1
        assert capsys.readouterr().err.splitlines() == [
            "schemas: bank.entry.posted: event.data.fee: removed",
            "schemas: bank.hold.shared: the event has been removed",
        ]
        assert main("--check") == 0
    assert (folder / f"{ENTRY}.json").read_text() == render(generate(ENTRY))


def test_the_schemas_of_a_revision_come_from_git(folder: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", str(folder.parent.parent), *identity, *arguments], check=True, capture_output=True)

    assert main("--check") == 0, "no git, nothing to compare with"
    assert main("--check", "--base", "main") == 1, "an explicit revision must exist"
    git("init", "-q")
    git("commit", "-q", "--allow-empty", "-m", "nothing yet")
    assert generate_schemas.committed("HEAD") == {}
    git("add", ".")
    git("commit", "-q", "-m", "schemas")
    (folder / f"{ENTRY}.json").unlink()
    assert generate_schemas.committed("HEAD") == {type_: generate(type_) for type_ in DATA_MODELS}
