"""Documents have valid links, existing names, current generated parts and a marker for each block of commands.

The commands are run on stacks by integration-tests/*/test_documents.py.
"""

import re
from pathlib import Path

import pytest

from monitoring.tests.series import known
from scripts.docs import document_names, environment, generate_client, generate_docs
from shared.testing.documents import SHELL, Block, blocks, broken_links, documents
from shared.testing.paths import ROOT

# Documents whose command blocks are run by tests, or marked with a reason why not.
GUIDES = ("README.md", "setup.md", "docs/deployment.md")
RUNNABLE = {"embedded", "docker"}


def read(file: Path | str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("file", documents(), ids=str)
def test_links_lead_somewhere(file: Path) -> None:
    assert broken_links(file, read(file)) == []


@pytest.mark.parametrize("file", documents(), ids=str)
def test_commands_files_variables_and_metrics_exist(file: Path) -> None:
    assert document_names.unknown(read(file), known()) == []


@pytest.mark.parametrize("guide", GUIDES)
def test_every_command_of_a_guide_is_run_or_says_why_not(guide: str) -> None:
    unaccounted = [f"{guide}:{block.line}" for block in blocks(read(guide)) if not _accounted(block)]
    assert unaccounted == []


def _accounted(block: Block) -> bool:
    match block.marker:
        case "runnable":
            return block.language in SHELL and block.value in RUNNABLE
        case "starts":
            return block.language in SHELL and block.value == "embedded"
        case "not run":
            return len(block.value) > 10
        case _:
            return block.language not in (*SHELL, "indented", "")


def test_generated_parts_are_up_to_date() -> None:
    assert generate_docs.stale() == [], "run: make docs"


def test_the_python_client_is_up_to_date() -> None:
    assert generate_client.stale() == [], "run: make docs"


def test_every_variable_that_is_read_is_described_and_the_other_way_round() -> None:
    variables_read_by_code = environment.variables_read_by_code()
    described = {variable.name for group in environment.other_variables() for variable in group.variables}
    known_names = document_names.variables()
    assert {name: files for name, files in variables_read_by_code.items() if name not in known_names} == {}
    assert described - variables_read_by_code.keys() == set()


def test_the_readme_leads_to_every_document() -> None:
    readme = read("README.md")
    wanted = {str(file) for file in documents() if len(file.parts) <= 2 and file.parts[0] in (file.name, "docs")}
    linked = set(re.findall(r"\]\(([\w./-]+\.md)", readme))
    assert wanted - linked - {"README.md"} == set()


# That each check bites ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "[gone](nowhere.md)",
        "[gone](docs/ci.md#nowhere)",
        "[gone](#nowhere)",
        "![gone](docs/gone.png)",
        "[outside](../../etc/passwd)",
        "[malformed](https://)",
        '<img src="docs/gone.png">',
    ],
)
def test_a_broken_link_is_found(text: str) -> None:
    assert len(broken_links(Path("README.md"), f"# Here\n\n{text}\n")) == 1
    assert broken_links(Path("README.md"), "# Here\n\n[a](#here) [b](docs/ci.md#build) <https://example.com/x>\n") == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`make everything`", "make target everything"),
        ("```sh\nPORT=1 make everything\n```", "make target everything"),
        ("`make drills DRILL=earthquake`", "drill earthquake"),
        ('`make unit SUITES="shared nothing"`', "suite nothing"),
        ("`make run PROT=8090`", "variable PROT"),
        ("set `BANK_PROT` first", "variable BANK_PROT"),
        ("see `scripts/gone.py`", "file scripts/gone.py"),
        ("see `monitoring/gone/`", "file monitoring/gone/"),
        ("see `gone.yml`", "file gone.yml"),
        ("`python -m scripts.gone`", "module scripts.gone"),
        ("`app.ledger.gone_function`", "module app.ledger.gone_function"),
        ("`bank_gone_total`", "metric bank_gone_total"),
        ("`service:gone:max`", "metric service:gone:max"),
        ("`banking_app_gone`", "name banking_app_gone"),
        ("`test_x.py::test_of_what_is_gone`", "test test_of_what_is_gone"),
        ("`test_links_lead`", "test test_links_lead"),
        ("`…of_what_is_gone`", "test of_what_is_gone"),
    ],
)
def test_an_unknown_name_is_found(text: str, found: str) -> None:
    assert found in document_names.unknown(text, known())


def test_existing_names_are_accepted() -> None:
    text = (
        "`make run PORT=8090`, `make drills DRILL=canary`, `scripts/stack/up.sh`, `app/ledger.py`, `monitoring/rules/`,"
        " `bank_flags_total`, `service:outbox_pending:max`, `read/write`, `application/json`, `app.ledger`,"
        " `test_links_lead…`, `…lead_somewhere`, `DATABASE_URL_FILE`, `make unit SUITES=local`"
    )
    assert document_names.unknown(text, known()) == []


def test_a_command_without_a_marker_is_found() -> None:
    text = "```sh\na\n```\n\n    b\n\n<!-- runnable: moon -->\n```sh\nc\n```\n\n<!-- not run: no -->\n```sh\nd\n```\n"
    assert [_accounted(block) for block in blocks(text)] == [False] * 4


def test_a_part_without_its_place_is_an_error() -> None:
    text = "<!-- generated: a -->\nold\n<!-- end of a -->\n"
    assert generate_docs.with_parts(text, {"a": "new"}) == "<!-- generated: a -->\n\nnew\n\n<!-- end of a -->\n"
    with pytest.raises(ValueError, match="generated part b"):
        generate_docs.with_parts(text, {"b": "new"})
