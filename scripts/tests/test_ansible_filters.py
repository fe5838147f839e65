"""Ansible validates output of containers and values for .env (ansible/plugins/filter/validation.py)."""

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from shared.testing.paths import ROOT

_FILE = ROOT / "ansible/plugins/filter/validation.py"
_SPEC = importlib.util.spec_from_file_location("validation", _FILE)
assert _SPEC is not None and _SPEC.loader is not None
filters = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(filters)

_DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGE = f"registry.example:5000/bank/account-service@{_DIGEST}"
EVIL = "AUTOSCALE_SERVICE_IMAGE=evil"
IMAGES = {"account-service": IMAGE, "transaction-service": f"127.0.0.1:5000/bank/transaction-service@{_DIGEST}"}
REVISIONS = {"account-service": "0123456789abcdef" * 4, "transaction-service": "fedcba9876543210" * 4}
STATE: dict[str, Any] = {
    "id": "20260131T120000.123456Z",
    "phase": "done",
    "version": "v2",
    "driver": "somebody with ansible",
    "images": IMAGES,
    "previous": IMAGES,
    "revisions": REVISIONS,
    "previous_revisions": REVISIONS,
    "canaries": {"account-service": 1, "transaction-service": 1},
    "steps": [10, 50],
    "step": 1,
    "weight": 50,
    "serving": "stable",
    "reason": "healthy",
    "verdict": {"verdict": "promote", "reason": "healthy", "figures": {"account-service": {"canary_errors": 1.5}}},
    "outcome": "promoted",
    "history": [{"at": 1.5, "reason": "healthy"}],
}
# Line breaks of all kinds, shell, template and terminal injections, and other types.
HOSTILE: tuple[Any, ...] = (
    f"v2\n{EVIL}",
    f"v2\r{EVIL}",
    f"v2\u2028{EVIL}",
    f"v2\x85{EVIL}",
    "\x1b]0;evil\x07\x1b[2J",
    "$(touch /tmp/evil)",
    "`touch /tmp/evil`",
    "'; touch /tmp/evil; '",
    "{{ lookup('pipe', 'touch /tmp/evil') }}",
    "--privileged",
    "\x00",
    "x" * 100_000,
    None,
    True,
    -1,
    10**30,
    1.5,
    float("nan"),
    [],
    ["stable"],
    {"phase": "done"},
)


def _read(document: Any) -> dict[str, Any]:
    state: dict[str, Any] = filters.rollout_state(json.dumps(document))
    return state


def _texts(value: Any) -> list[str]:
    """Return all strings in a document, including keys."""
    if isinstance(value, dict):
        return [text for pair in value.items() for one in pair for text in _texts(one)]
    if isinstance(value, list):
        return [text for one in value for text in _texts(one)]
    return [value] if isinstance(value, str) else []


def test_only_needed_fields_of_a_state_are_read() -> None:
    read = _read(STATE)
    assert read == {name: STATE[name] for name in read}
    assert set(read) == {
        "id",
        "phase",
        "version",
        "driver",
        "images",
        "previous",
        "revisions",
        "previous_revisions",
        "step",
        "serving",
        "outcome",
        "reason",
        "verdict",
    }
    assert _read({"phase": "idle"})["images"] == {}


@pytest.mark.parametrize("field", STATE)
def test_no_field_of_a_state_brings_anything_but_what_it_is_for(field: str) -> None:
    places = [STATE | {field: value} for value in HOSTILE]
    if isinstance(STATE[field], dict):
        # Nested values as well: in addition to valid ones, and instead of them.
        name = next(iter(STATE[field]))
        places += [STATE | {field: STATE[field] | {name: value}} for value in HOSTILE]
        places += [STATE | {field: STATE[field] | {value: 1}} for value in HOSTILE if isinstance(value, str)]
    for document in places:
        try:
            read = _read(document)
        except ValueError as refused:
            assert str(refused).isprintable() and len(str(refused)) < 700
            continue
        # Free text is one line; all other fields have one of few values.
        assert all(text.isprintable() and len(text) <= 500 for text in _texts(read))
        for name in ("id", "phase", "serving"):
            assert read[name] == STATE[name]
        for name in ("images", "previous", "revisions", "previous_revisions"):
            assert read[name] in (STATE[name], {})
        assert isinstance(read["step"], int) and 0 <= read["step"] <= 100


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        '"idle"',
        "[" * 200_000,
        '{"phase": ' + "[" * 200_000,
        "{}",
        '{"phase": "done", "id": "evil"}',
    ]
    + [json.dumps({"phase": "idle", "verdict": {"reason": "", "figures": [[[[[[[[[[]]]]]]]]]]}}), " " * 1_100_000],
)
def test_an_invalid_state_is_rejected(text: str) -> None:
    with pytest.raises(ValueError, match="returned an invalid rollout state"):
        filters.rollout_state(text)


@pytest.mark.parametrize(
    "image",
    [
        "bank/account-service:dev",
        IMAGE.removesuffix("f"),
        IMAGE + "0",
        IMAGE + "\n",
        IMAGE + f"\n{EVIL}",
        f"evil\n{IMAGE}",
        IMAGE.upper(),
        IMAGE.replace("sha256", "sha512"),
        f"--privileged@{_DIGEST}",
        f"$(evil)@{_DIGEST}",
        f"a b@{_DIGEST}",
        f"{IMAGE} {IMAGE}",
        f"registry/ünïcode@{_DIGEST}",
        f"@{_DIGEST}",
        _DIGEST,
        "",
        None,
        1,
        [IMAGE],
    ],
)
def test_an_image_is_a_name_and_a_digest_and_nothing_else(image: Any) -> None:
    with pytest.raises(ValueError):
        filters.image_reference(image)
    if image is not None:
        for field in ("images", "previous"):
            with pytest.raises(ValueError):
                _read(STATE | {field: IMAGES | {"account-service": image}})


@pytest.mark.parametrize("image", [*IMAGES.values(), f"account-service@{_DIGEST}", f"localhost/a/b:tag@{_DIGEST}"])
def test_images_of_registries_and_of_rehearsals_are_images(image: str) -> None:
    assert filters.image_reference(image) == image


def test_a_release_is_held_to_the_same_grammar() -> None:
    text = (ROOT / "ansible/roles/banking_app/tasks/preflight.yml").read_text(encoding="utf-8")
    # Ansible's `match` is anchored at the start; `$` would accept a trailing line break.
    (pattern,) = re.findall(r"is match\('(.*)'\)", text)
    assert pattern == filters._IMAGE.pattern + r"\Z"  # pylint: disable=protected-access


def test_images_of_other_services_are_refused() -> None:
    for images in ({"account-service": IMAGE}, IMAGES | {"autoscale-service": IMAGE}, {"rollout-service": IMAGE}):
        with pytest.raises(ValueError):
            _read(STATE | {"images": images})


def test_a_variable_is_one_line_of_env() -> None:
    assert filters.dotenv({"B": 8080, "A": "x=y #z"}) == "A='x=y #z'\nB=8080\n"
    for value in (f"x\n{EVIL}", f"x\r{EVIL}", "x\n", "\x00", "\x85", "\u2028", "\t"):
        for write in (filters.dotenv, lambda variables: filters.dotenv_with("A=x\n", variables)):
            with pytest.raises(ValueError, match="^A: its value contains") as refused:
                write({"A": value})
            # The value may be a secret.
            assert "evil" not in str(refused.value)
    for name in ("", "a", "A B", f"A\n{EVIL}", "A=B", "1A", "#A"):
        with pytest.raises(ValueError, match="not a variable name"):
            filters.dotenv({name: "x"})


@pytest.mark.parametrize(
    "value", ["a$b", "${HOME}", "$$", "a #b", "#b", '"a"', " a ", "a\\nb", "plain:80/x?y=1&z", "[[4, 15]]"]
)
def test_a_value_of_env_stays_itself(tmp_path: Path, value: str) -> None:
    line = filters.dotenv({"VALUE_A": value})
    (tmp_path / "env").write_text(line, encoding="utf-8")
    script = f'. scripts/stack/stack_env.sh; unset VALUE_A; read_env {tmp_path}/env; printf %s "$VALUE_A"'
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == value
    # Compose takes single quotes literally, and expands other values.
    assert line == f"VALUE_A='{value}'\n" or not re.search(r"[$#\\\"]|^ ", value)


def test_a_value_that_cannot_be_quoted_is_rejected() -> None:
    with pytest.raises(ValueError, match="VALUE_A"):
        filters.dotenv({"VALUE_A": "it's $5"})
    assert filters.dotenv({"VALUE_A": "it's"}) == "VALUE_A=it's\n"


def test_some_variables_of_env_change_and_the_rest_stays() -> None:
    text = "# comment\nAB=1\nA=2\nB=3\n"
    assert filters.dotenv_with(text, {"A": "new", "C": "4"}) == "# comment\nAB=1\nA=new\nB=3\nC=4\n"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("no valid bundles exist in registry", "has no valid signature"),
        ("no matching signatures: missing or incorrect annotation", "has no valid signature"),
        ("no signatures found", "has no valid signature as account-service of release 7 (v7)"),
        ("no matching signatures: invalid signature when validating", "has no valid signature"),
        ("none of the expected identities matched what was in the certificate", "has no valid signature"),
        (
            'Get "http://127.0.0.1:5000/v2/": dial tcp 127.0.0.1:5000: connect: connection refused',
            "the registry did not",
        ),
        ("GET https://r.example/token: UNAUTHORIZED: authentication required", "the registry did not"),
        ("GET https://r.example/v2/: unexpected status code 503 Service Unavailable", "the registry did not"),
        ("GET https://r.example/v2/: TOOMANYREQUESTS: rate limit; no signatures found", "the registry did not"),
        ("tls: failed to verify certificate: x509: certificate signed by unknown authority", "the registry did not"),
        ("unknown flag: --new-bundle-format", "because Cosign failed"),
    ],
)
def test_only_a_missing_signature_is_reported_as_one(error: str, told: str) -> None:
    printed = f"WARNING: Skipping tlog verification\nError: {error}\nerror during command execution: {error}\n"
    problem = filters.signature_problem([printed, printed], "account-service", {"release": 7, "version": "v7"})
    assert told in problem and problem.count(error) == 1


def test_a_cosign_that_printed_nothing_is_no_missing_signature() -> None:
    assert "Cosign printed nothing" in filters.signature_problem(["", ""], "account-service", {})


def test_roles_take_json_from_root_alone() -> None:
    """Only files of root and counts are parsed directly; output of containers is validated by rollout_state."""
    ours = {"banking_app_record_content.content", "nginx_canary_record_content.content"}
    counted = {"nginx_canary_replica_counts.results[0].stdout", "nginx_canary_replica_counts.results[1].stdout"}
    found = {
        source
        for file in sorted((ROOT / "ansible").rglob("*.yml"))
        for source in re.findall(r"([\w.\[\]]+)(?: \| b64decode)? \| (?:from_json|from_yaml)", file.read_text("utf-8"))
    }
    assert found == ours | counted


def test_make_up_remembers_variables_one_a_line(tmp_path: Path) -> None:
    script = "set -e; . scripts/stack/stack_env.sh; env_line COMPOSE_PROJECT_NAME; env_line NGINX_IMAGE"
    for value, expected in {
        "bank": "COMPOSE_PROJECT_NAME=bank\nNGINX_IMAGE=x\n",
        f"bank\n{EVIL}": "",
        "a\rb": "",
    }.items():
        environment = {**os.environ, "VAR_DIR": str(tmp_path), "COMPOSE_PROJECT_NAME": value, "NGINX_IMAGE": "x"}
        done = subprocess.run(
            ["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.stdout, done.returncode == 0) == (expected, bool(expected)) and "evil" not in done.stderr


def test_no_role_writes_env_but_by_the_filter() -> None:
    writers = [
        file.relative_to(ROOT)
        for folder in ("ansible", "scripts")
        for file in sorted((ROOT / folder).rglob("*"))
        if file.suffix in (".yml", ".sh", ".py", ".j2")
        and "tests" not in file.parts
        and re.search(r"(lineinfile|blockinfile|replace):\s|dest: .*/\.env|>+ *\.env", file.read_text("utf-8"))
    ]
    assert writers == [
        # Check mode writes the template of write_env.yml to a temporary folder.
        Path("ansible/roles/banking_app/tasks/preview.yml"),
        Path("ansible/roles/banking_app/tasks/record_rollback.yml"),
        Path("ansible/roles/banking_app/tasks/write_env.yml"),
        # Updates the base images in the repository's .env.
        Path("scripts/images/pin-images.sh"),
    ]
    for file in ("templates/env.j2", "tasks/record_rollback.yml"):
        assert re.search(r"\| dotenv", (ROOT / "ansible/roles/banking_app" / file).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "revision",
    [
        "1" * 63,
        "1" * 65,
        "1" * 64 + "\n",
        "\n" + "1" * 64,
        "A" * 64,
        "g" * 64,
        "../" + "1" * 61,
        "1" * 32 + "/" + "1" * 31,
        "\u0661" * 64,
        f"{'1' * 64}\n{EVIL}",
        "$(touch evil)",
        "",
        None,
        1,
        ["1" * 64],
    ],
)
def test_a_revision_is_64_hexadecimal_digits_and_nothing_else(revision: Any) -> None:
    with pytest.raises(ValueError):
        filters.revision(revision)
    with pytest.raises(ValueError):
        filters.generated_files(json.dumps({"updated": [], "revisions": REVISIONS | {"account-service": revision}}))
    for field in ("revisions", "previous_revisions"):
        with pytest.raises(ValueError):
            _read(STATE | {field: REVISIONS | {"account-service": revision}})
    if revision:
        with pytest.raises(ValueError):
            filters.version_variables({}, filters.versions(IMAGES, REVISIONS | {"account-service": revision}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"updated": [], "revisions": {}}', '{"updated": 1}', "nonsense"])
def test_other_output_of_the_generator_is_rejected(text: str) -> None:
    with pytest.raises(ValueError):
        filters.generated_files(text)


def test_changes_of_versions_are_listed() -> None:
    running = filters.versions(IMAGES, REVISIONS)
    other = {**running, "account-service": {"image": IMAGE, "revision": "1" * 64}}
    assert filters.version_changes(running, running) == []
    assert filters.version_changes(other, running) == [
        f"account-service: configuration {REVISIONS['account-service']} → {'1' * 64}"
    ]


def test_a_version_sets_image_and_revision_of_a_track() -> None:
    found = filters.version_variables({"A": "1"}, filters.versions(IMAGES, REVISIONS), "CANARY")
    assert found["ACCOUNT_SERVICE_CANARY_IMAGE"] == IMAGE
    assert found["TRANSACTION_SERVICE_CANARY_REVISION"] == REVISIONS["transaction-service"]
    assert len(found) == 5
    # The record of an earlier release has no revisions.
    assert set(filters.version_variables({}, filters.versions(IMAGES, {}))) == {
        "ACCOUNT_SERVICE_IMAGE",
        "TRANSACTION_SERVICE_IMAGE",
    }
    assert filters.version_part(filters.versions(IMAGES, REVISIONS), "revision") == REVISIONS


_Versions = dict[str, dict[str, str]]


def _version(digit: str, revision: str = "1") -> _Versions:
    image = f"registry.example:5000/bank/service@sha256:{digit * 64}"
    return {service: {"image": image, "revision": revision * 64} for service in IMAGES}


_A, _B, _C = (_version(digit) for digit in "abc")
# Other settings of the image a, and a replica of an earlier release, which has no revision.
_A2, _A0, _B0 = _version("a", "2"), _version("a", ""), _version("b", "")


@pytest.mark.parametrize(
    ("running", "recorded", "wanted", "expected"),
    [
        pytest.param([_A], _A, _B, _A, id="recorded, and another release is deployed"),
        pytest.param([_A], _A, _A2, _A, id="recorded, and other settings of it are deployed"),
        pytest.param([], _A, _B, _A, id="nothing runs: Compose starts what is recorded"),
        pytest.param([_B], _A, _B, _B, id="the release runs already, unrecorded"),
        pytest.param([_A2], _A, _A2, _A2, id="the settings run already, unrecorded"),
        pytest.param([_A, _B], _A, _B, _A, id="a mix: the replicas of the other release are replaced"),
        pytest.param([_A, _A2], _A, _A2, _A, id="a mix of settings"),
        pytest.param([_B, _C], _A, _B, _C, id="a mix with an earlier release"),
        pytest.param([_A], _B, _B, _A, id="a release that was undone is not deployed"),
        pytest.param([_A2], _A, _A, _A2, id="settings that were undone are not deployed"),
        pytest.param([_A0], _A0, _B, _version("a"), id="of an earlier release: as if it had the settings of this one"),
        pytest.param([_A0], _A, _A2, _A, id="of an earlier release, recorded since with its settings"),
        pytest.param([_A0], _A0, _A2, _A2, id="of an earlier release, which is deployed again"),
    ],
)
def test_what_is_deployed_is_observed(
    running: list[_Versions], recorded: _Versions, wanted: _Versions, expected: _Versions
) -> None:
    lines = [" ".join([service, *one.values()]) for versions in running for service, one in versions.items()]
    observed = filters.running_versions("\n".join(lines), [recorded, _C, _A, _A2, _B0, {}])
    assert filters.stable_versions(observed, recorded, wanted) == expected


@pytest.mark.parametrize("digit, revision", [("b", "1"), ("a", "3")])
def test_an_unknown_image_or_configuration_is_rejected(digit: str, revision: str) -> None:
    (service, one), *_ = _version(digit, revision).items()
    with pytest.raises(ValueError, match="which no record of this host contains"):
        filters.running_versions(f"{service} {one['image']} {one['revision']}", [_A, _A2, _C])
