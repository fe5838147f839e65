"""Checks of a release before Cosign is called; verification with Cosign is tested by the drill (make release-drill)."""

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from scripts.release import provenance, verify_release
from scripts.release.verify_release import (
    Trust,
    VerificationError,
    key_signer,
    read_release,
    was_built_from,
    workflow_signer,
)

_COMMIT = "a" * 40
_DIGEST = "b" * 64
_URL = "https://git.example/bank"
GOOD: dict[str, Any] = {
    "version": "v1",
    "commit": _COMMIT,
    "release": 7,
    "images": {"account-service": f"registry.example:5000/bank/account-service@sha256:{_DIGEST}"},
}


def test_a_release_is_read() -> None:
    release = read_release(json.dumps({"banking_app_release": GOOD}))
    assert (release.version, release.number, list(release.images)) == ("v1", 7, ["account-service"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"images": {}}, "no images"),
        ({"images": {"a": "registry.example/bank/a:v1"}}, "not named by digest"),
        ({"images": {"a": f"--key=x@sha256:{_DIGEST[:-1]}"}}, "not named by digest"),
        ({"images": {"a": None}}, "not named by digest"),
        ({"commit": "main"}, "not a commit id"),
        ({"release": "soon"}, "not a valid release file"),
    ],
)
def test_an_invalid_release_is_rejected(change: dict[str, Any], told: str) -> None:
    with pytest.raises(VerificationError, match=told):
        read_release(json.dumps({"banking_app_release": GOOD | change}))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"banking_app_release": 1}'])
def test_an_invalid_file_is_rejected(text: str) -> None:
    with pytest.raises(VerificationError, match="not a valid release file"):
        read_release(text)


def test_provenance_is_of_one_commit_one_repository_and_one_image() -> None:
    predicate = provenance.predicate("account-service", "v1", _URL, _COMMIT, "", datetime(2026, 1, 1, tzinfo=UTC))
    statement = {"subject": [{"digest": {"sha256": _DIGEST}}], "predicate": predicate}
    assert was_built_from(statement, _URL, _COMMIT, _DIGEST)
    assert not was_built_from(statement, f"{_URL}-of-another", _COMMIT, _DIGEST)
    assert not was_built_from(statement, _URL, "c" * 40, _DIGEST)
    assert not was_built_from(statement, _URL, _COMMIT, "c" * 64)
    without = copy.deepcopy(statement)
    del without["predicate"]["buildDefinition"]  # type: ignore[attr-defined]
    assert not was_built_from(without, _URL, _COMMIT, _DIGEST)


def test_a_rehearsal_is_not_taken_for_a_release(monkeypatch: pytest.MonkeyPatch) -> None:
    when = datetime(2026, 1, 1, tzinfo=UTC)
    predicate = provenance.predicate("account-service", "v1", _URL, _COMMIT, "", when, rehearsal=True)
    statement = {"subject": [{"digest": {"sha256": _DIGEST}}], "predicate": {**predicate, "components": ["one"]}}
    monkeypatch.setattr(verify_release, "_cosign", lambda *_: "")
    monkeypatch.setattr(verify_release, "_statements", lambda _: [statement])
    release = read_release(json.dumps({"banking_app_release": GOOD}))
    (problem,) = verify_release.check(release, Trust((key_signer(Path("now.pub")),), _URL))
    assert "that of a rehearsal" in problem
    assert verify_release.check(release, Trust((key_signer(Path("now.pub")),), _URL, rehearsals=True)) == []


def test_cosign_verifies_each_key_and_then_the_workflow(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def refuse(*arguments: str) -> str:
        asked.append(arguments)
        raise VerificationError("not by this one")

    monkeypatch.setattr(verify_release, "_cosign", refuse)
    workflow = f"{_URL}/.github/workflows/deploy.yml@refs/heads/main"
    trust = Trust((key_signer(Path("now.pub")), workflow_signer(workflow, "https://issuer.example")), _URL)
    problems = verify_release.check(read_release(json.dumps({"banking_app_release": GOOD})), trust)
    by_key, by_workflow = asked
    assert by_key[:4] == ("verify", "--key", "now.pub", "--insecure-ignore-tlog=true")
    # Keyless signatures need the transparency log as evidence of the signing time, so it must not be ignored.
    assert by_workflow[:5] == (
        "verify",
        "--certificate-identity",
        workflow,
        "--certificate-oidc-issuer",
        "https://issuer.example",
    )
    assert "--insecure-ignore-tlog=true" not in by_workflow
    assert {"service=account-service", "version=v1", f"commit={_COMMIT}", "release=7"} < set(by_workflow)
    assert len(problems) == 1 and "now.pub: " in problems[0] and f"{workflow}: " in problems[0]


def test_a_trusted_signer_is_required(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["verify_release", "release.json", "--repository", _URL])
    with pytest.raises(SystemExit) as ended:
        verify_release.main()
    assert ended.value.code == 2 and "no trusted signer" in capsys.readouterr().err
