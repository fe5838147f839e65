"""What a driver says and hears, as it runs it."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app import cli, readiness
from app.containers import Container, Containers, DockerFailed
from app.state_file import StateFile
from app.state_machine import SERVICES, Rollout
from shared.testing.fixtures import Lab
from tests.world import LEASE, NOW, at_step, done, others, promoting, request, stable

Run = Callable[..., int]


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path)


@pytest.fixture
def run(tmp_path: Path, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command as the container does, at a given time."""
    for name, value in {"PROJECT": "bank", "STATE_DIR": str(tmp_path), "AUTH_JWKS": str(lab.secrets.jwks)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli.time, "time", lambda: NOW)

    def command(*arguments: str, given: str = "") -> int:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given.encode())))
        return cli.main(arguments)

    return command


def shown(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_rollout_from_begin_to_done(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("begin", "-", given=request().model_dump_json()) == 0
    rollout = shown(capsys)["id"]
    assert rollout == "19700112T134640.000000Z"
    canaries = others("canary", "b")
    monkeypatch.setattr(Containers, "observe", lambda _self: canaries)
    monkeypatch.setattr(readiness, "measured_canaries", lambda _url: {"account-service": 1})
    assert run("provisioned", rollout) == cli.REFUSED
    said = capsys.readouterr()
    assert "transaction-service: Prometheus measures 0 of 1 canaries" in said.err
    assert json.loads(said.out)["phase"] == "provisioning" and file.load().lease_until == NOW + LEASE
    monkeypatch.setattr(readiness, "measured_canaries", lambda _url: {one.service: 1 for one in canaries})
    canaries[0] = others("canary", "b", healthy=False)[0]
    assert run("provisioned", rollout) == cli.REFUSED
    assert "account-service: 0 of 1 canaries are healthy" in capsys.readouterr().err
    canaries[0] = others("canary", "b")[0]
    assert run("provisioned", rollout) == 0 and run("provisioned", rollout) == 0
    capsys.readouterr()
    assert run("renew", rollout) == 0 and shown(capsys)["phase"] == "canary"


def test_the_end_of_a_rollout(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file.change(lambda _state: promoting())
    found = [stable(service, number) for service in SERVICES for number in (1, 2)]
    monkeypatch.setattr(Containers, "observe", lambda _self: found)
    monkeypatch.setattr(Containers, "image_ids", lambda _self, _images: dict.fromkeys(SERVICES, "b"))
    assert run("promoted", "one") == cli.REFUSED
    found += [stable(SERVICES[0], 3, "b"), stable(SERVICES[0], 4, "b"), stable(SERVICES[1], 3, "b")]
    found.append(stable(SERVICES[1], 4, "b", healthy=False))
    assert run("promoted", "one") == cli.REFUSED
    said = capsys.readouterr()
    assert "transaction-service: 1 healthy replicas of the new version stand beside 2 others" in said.err
    assert "account-service" not in said.err.splitlines()[-1] and file.load().phase == "promoting"
    found[-1] = stable(SERVICES[1], 4, "b")
    assert run("promoted", "one") == 0 and shown(capsys)["phase"] == "done"
    assert run("abort", "because") == 0 and shown(capsys)["serving"] == "previous"
    assert run("restored") == 0 and shown(capsys)["serving"] == "stable"
    assert run("renew", "one") == cli.REFUSED
    assert "not under way any more (rolling-back: because)" in capsys.readouterr().err


def test_docker_that_does_not_answer_is_no_reason_to_go_on(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_self: Containers) -> list[Container]:
        raise DockerFailed("list containers: timed out")

    file.change(lambda _state: promoting())
    monkeypatch.setattr(Containers, "observe", fail)
    assert run("promoted", "one") == cli.REFUSED
    assert "refused: list containers: timed out" in capsys.readouterr().err and file.load().phase == "promoting"


def test_an_abort_does_not_wait_for_what_it_does_not_need() -> None:
    """The clients of Docker and HTTP take as long to load as all the rest."""
    loaded = "import sys, app.cli; print({'docker', 'httpx', 'requests'} & set(sys.modules))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    told = subprocess.run([sys.executable, "-c", loaded], env=environment, capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"


@pytest.mark.parametrize("state", [Rollout(), at_step(), done()])
def test_the_status_changes_nothing(
    run: Run, file: StateFile, capsys: pytest.CaptureFixture[str], state: Rollout
) -> None:
    file.change(lambda _state: state)
    assert run("status") == 0 and shown(capsys)["phase"] == state.phase
    assert file.load() == state


@pytest.mark.parametrize("arguments", [("status",), ("abort", "because"), ("begin", "-")])
def test_a_state_that_cannot_be_read_is_named_and_left(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    (tmp_path / "rollout.json").write_text('{"phase": "can', encoding="utf-8")
    assert run(*arguments, given=request().model_dump_json()) == 1
    assert f"{tmp_path}/rollout.json is no state of a rollout" in capsys.readouterr().err
    assert (tmp_path / "rollout.json").read_text(encoding="utf-8") == '{"phase": "can'


@pytest.mark.parametrize(
    "wrong", [(), ("dance",), ("renew",), ("renew", " "), ("abort",), ("abort", ""), ("status", "now"), ("begin", "x")]
)
def test_a_command_that_is_none_is_explained(
    run: Run, capsys: pytest.CaptureFixture[str], wrong: tuple[str, ...]
) -> None:
    assert run(*wrong) == 2 and "abort REASON" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("{}", "begin: driver: Field required"),
        ("nonsense", "begin: input: Invalid JSON"),
        (request().model_dump_json().replace('"steps"', '"stepps"'), "begin: stepps: Extra inputs"),
    ],
)
def test_a_request_that_is_wrong_is_explained(
    run: Run, capsys: pytest.CaptureFixture[str], given: str, expected: str
) -> None:
    assert run("begin", "-", given=given) == 2 and expected in capsys.readouterr().err


def test_without_a_disk_it_says_so(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tmp_path.joinpath("rollout.lock").mkdir()
    assert run("status") == 1 and "cannot be kept" in capsys.readouterr().err
