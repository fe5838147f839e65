"""The driver's command line: output, exit codes, and effects on the state."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import cli, readiness, state_file
from app.clock import Clock
from app.containers import Container, Containers, DockerError
from app.state_file import StateFile
from app.rollout_request import SERVICES
from app.state_machine import Rollout
from shared.testing.fixtures import Lab
from tests.fake_stack import LEASE, NOW, at_step, done, others, promoting, request, stable

Run = Callable[..., int]


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path, tmp_path / "memory")


@pytest.fixture
def run(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as in the container, at a fixed time."""
    folders = {"STATE_DIR": str(tmp_path), "MEMORY_DIR": str(tmp_path / "memory")}
    for name, value in {"PROJECT": "bank", "AUTH_JWKS": str(lab.secrets.jwks), **folders}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "Clock", lambda: Clock(lambda: NOW, lambda: 0, "this boot"))

    def command(*arguments: str, given: str = "") -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        return cli.main(arguments)

    return command


def printed(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_rollout_is_driven_from_begin_to_done(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("begin", "-", given=request().model_dump_json()) == 0
    rollout = printed(capsys)["id"]
    assert rollout == "19700112T134640.000000Z"
    canaries = others("canary", "b")
    monkeypatch.setattr(Containers, "observe", lambda _self: canaries)
    monkeypatch.setattr(readiness, "scraped_canaries", lambda _url: {"account-service": 1})
    assert run("provisioned", rollout) == cli.REJECTED
    captured = capsys.readouterr()
    assert "transaction-service: Prometheus scrapes 0 of 1 canaries" in captured.err
    assert json.loads(captured.out)["phase"] == "provisioning" and file.load().lease_until == NOW + LEASE
    monkeypatch.setattr(readiness, "scraped_canaries", lambda _url: {canary.service: 1 for canary in canaries})
    canaries[0] = others("canary", "b", healthy=False)[0]
    assert run("provisioned", rollout) == cli.REJECTED
    assert "account-service: 0 of 1 canaries are healthy" in capsys.readouterr().err
    canaries[0] = others("canary", "b")[0]
    assert run("provisioned", rollout) == 0 and run("provisioned", rollout) == 0
    capsys.readouterr()
    assert run("renew", rollout) == 0 and printed(capsys)["phase"] == "canary"


def test_a_promotion_is_reported_once_stable_runs_the_new_version(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.change(lambda _state: promoting())
    found = [stable(service, number) for service in SERVICES for number in (1, 2)]
    monkeypatch.setattr(Containers, "observe", lambda _self: found)
    monkeypatch.setattr(Containers, "image_ids", lambda _self, _images: dict.fromkeys(SERVICES, "b"))
    assert run("promoted", "one") == cli.REJECTED
    found += [stable(SERVICES[0], 3, "b"), stable(SERVICES[0], 4, "b"), stable(SERVICES[1], 3, "b")]
    found.append(stable(SERVICES[1], 4, "b", healthy=False))
    assert run("promoted", "one") == cli.REJECTED
    captured = capsys.readouterr()
    assert "transaction-service: 1 healthy replicas of the new version, 2 of other versions" in captured.err
    assert "account-service" not in captured.err.splitlines()[-1] and file.load().phase == "promoting"
    found[-1] = stable(SERVICES[1], 4, "b")
    assert run("promoted", "one") == 0 and printed(capsys)["phase"] == "done"
    assert run("abort", "one", "because") == 0 and printed(capsys)["serving"] == "previous"
    assert (
        run("restoring", "one") == 0
        and printed(capsys)
        and run("restored", "one") == 0
        and printed(capsys)["serving"] == "stable"
    )
    assert run("renew", "one") == cli.REJECTED
    assert "no longer in progress (rolling-back: because)" in capsys.readouterr().err


def test_an_unreachable_docker_blocks_the_promotion(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Containers) -> list[Container]:
        raise DockerError("list containers: timed out")

    file.change(lambda _state: promoting())
    monkeypatch.setattr(Containers, "observe", fail)
    assert run("promoted", "one") == cli.REJECTED
    assert "rejected: list containers: timed out" in capsys.readouterr().err and file.load().phase == "promoting"


def test_an_abort_imports_no_docker_or_http_client() -> None:
    """The Docker and HTTP clients take as long to import as everything else."""
    loaded = "import sys, app.cli; print({'docker', 'httpx', 'requests'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", loaded], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "set()\n"


@pytest.mark.parametrize("state", [Rollout(), at_step(), done()])
def test_the_status_changes_nothing(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], state: Rollout
) -> None:
    file.change(lambda _state: state)
    assert run("status") == 0 and printed(capsys)["phase"] == state.phase
    assert file.load() == state


@pytest.mark.parametrize("arguments", [("status",), ("abort", "current", "because"), ("begin", "-")])
def test_an_invalid_state_file_is_reported_and_left_unchanged(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    (tmp_path / "rollout.json").write_text('{"phase": "can', encoding="utf-8")
    assert run(*arguments, given=request().model_dump_json()) == 1
    assert f"{tmp_path}/rollout.json is not a valid rollout state" in capsys.readouterr().err
    assert (tmp_path / "rollout.json").read_text(encoding="utf-8") == '{"phase": "can'


@pytest.mark.parametrize(
    "wrong",
    [
        (),
        ("dance",),
        ("renew",),
        ("renew", " "),
        ("abort", "one"),
        ("abort", "one", ""),
        ("status", "now"),
        ("begin", "x"),
        ("approve", "one", "x", "me"),
    ],
)
def test_an_unknown_command_prints_the_usage(
    run: Run, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...]
) -> None:
    assert run(*wrong) == 2 and "abort ID REASON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{}", "begin: driver: Field required"),
        ("nonsense", "begin: input: Invalid JSON"),
        (request().model_dump_json().replace('"steps"', '"stepps"'), "begin: stepps: Extra inputs"),
    ],
)
def test_an_invalid_request_is_explained(
    run: Run, capsys: pytest.CaptureFixture[str], given: str, expected: str
) -> None:
    assert run("begin", "-", given=given) == 2 and expected in capsys.readouterr().err


def test_an_unwritable_state_directory_is_reported(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.joinpath("memory/rollout.lock").mkdir(parents=True)
    assert run("status") == 1 and "cannot read or write" in capsys.readouterr().err


def test_nothing_advances_on_a_disk_that_has_become_read_only(
    run: Run, file: StateFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.change(lambda _state: promoting())
    file.store()

    def read_only(path: Path, text: str) -> None:
        if path.parent.name != "memory":
            raise OSError(30, "Read-only file system")
        write(path, text)

    write = state_file._write  # pylint: disable=protected-access
    monkeypatch.setattr(state_file, "_write", read_only)
    monkeypatch.setattr(Containers, "observe", lambda _self: stable("b"))
    assert run("promoted", "one") == 1 and file.load().phase == "promoting"
