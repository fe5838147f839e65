"""The commands of the documentation on the embedded stack, which README's own command has started."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from harness.client import REQUEST_SECONDS
from harness.documented import (
    ExampleRun,
    differences,
    difference,
    on_ports_of_its_own,
    run,
    run_examples,
    start_command,
    started,
)

from shared.testing.documents import Block, Example
from shared.testing.paths import ROOT
from shared.testing.local_stack import SERVICES

# README first: it shows what a new bank does.
GUIDES = ("README.md", "setup.md", "docs/deployment.md")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of somebody who follows the documents; README's command runs."""
    folder = tmp_path_factory.mktemp("reader")
    environment = on_ports_of_its_own(folder / "var", os.environ)
    command = start_command((ROOT / "README.md").read_text(encoding="utf-8"))
    with started(command, ROOT, environment, folder / "log", 300):
        yield environment


def _get(url: str) -> httpx.Response:
    return httpx.get(url, timeout=REQUEST_SECONDS)


def follow(document: str, reader: dict[str, str]) -> list[ExampleRun]:
    return run(document, "embedded", reader, 300)


@pytest.mark.parametrize("document", GUIDES)
def test_the_commands_work_and_print_what_is_shown(document: str, reader: dict[str, str]) -> None:
    ran = follow(document, reader)
    assert ran or document == "docs/deployment.md"
    assert differences(document, ran) == []


def test_the_walk_through_calls_every_operation(reader: dict[str, str]) -> None:
    documented = {
        (method.upper(), path)
        for service in SERVICES
        for path, methods in _get(f"{reader['BASE_URL']}/docs/{service}/openapi.json").json()["paths"].items()
        for method in methods
    }
    before = succeeded(reader)
    # What it has called already it calls again, with the same keys.
    follow("setup.md", reader)
    called = {operation for operation, count in succeeded(reader).items() if count > before[operation]}
    assert documented - called == set()


def succeeded(reader: dict[str, str]) -> Counter[tuple[str, str]]:
    """Return how often each operation has been called with success, as both services count it."""
    found: Counter[tuple[str, str]] = Counter()
    for port in ("ACCOUNT_PORT", "TRANSACTION_PORT"):
        metrics = _get(f"http://127.0.0.1:{reader[port]}/metrics").text
        for labels, count in re.findall(r"^http_requests_total\{(.*)\} (\S+)$", metrics, flags=re.MULTILINE):
            of = dict(re.findall(r'(\w+)="([^"]*)"', labels))
            if of["status"].startswith("2"):
                found[of["method"], of["handler"]] += int(float(count))
    return found


# That the checks bite -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shown", "printed", "differs"),
    [
        ('{"a": 1}', '{"a":1}', False),
        ('{"a": 1}', '{"a":2}', True),
        ('{"a": 1}', '{"a":1,"b":2}', True),
        (
            '{"id": "01a2103a-1569-73e4-a76d-9bebfa859d88"}',
            '{"id":"01a2103b-b663-73fd-83ab-74901756aaa2"}',
            False,
        ),
        ('{"id": "01a2103a-1569-73e4-a76d-9bebfa859d88"}', '{"id":"gone"}', True),
        ("one\n…\nthree", "one\ntwo\nthree", False),
        ("one\n…\nthree", "one\ntwo\nfour", True),
        ("one", "one\ntwo", True),
        ("a  b", "a b\r", False),
    ],
)
def test_an_output_that_differs_is_found(shown: str, printed: str, differs: bool) -> None:
    assert bool(difference(shown, printed)) == differs


def test_a_command_that_fails_is_found(tmp_path: Path) -> None:
    examples = [Example(Block(1, "sh", text), None) for text in ("A=1; echo $A", "echo $A; false", "echo never")]
    with pytest.raises(AssertionError, match=r"page\.md:1 ended with 1"):
        run_examples("page.md", examples, {"PATH": os.environ["PATH"]}, 60, tmp_path)
    ran = run_examples("page.md", examples[:1], {"PATH": os.environ["PATH"]}, 60, tmp_path)
    assert [block.output.strip() for block in ran] == ["1"]
