"""A rollout ends with all clients on one version, whatever fails, and a person is notified."""

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from app import state_machine
from app.containers import DockerError
from app.nginx import NginxError
from app.state_file import StateFile
from app.state_machine import InvalidTransition, Rollout
from shared.testing.timing import assert_prompt
from tests.fake_stack import LEASE, NOW, FakeStack, at_step, done, others, promoting, request, stable, verdict


def serving(stack: FakeStack) -> FakeStack:
    """Let NGINX and Docker be as the state says."""
    state = stack.file.load()
    stack.served = state_machine.nginx_configuration(state)
    if state.phase == "canary":
        stack.containers += others("canary", "b") + others("baseline", "a")
    return stack


def versions(stack: FakeStack) -> set[tuple[str, str]]:
    return {(container.track, container.image) for container in stack.containers}


# Disks ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What happens on a small file system that is full, then read-only."""
    folder = tmp_path_factory.mktemp("disk")
    (folder / "mount").mkdir()
    script = 'mount -t tmpfs -o size=1m,mode=0755 none "$1" && shift && exec "$@"'
    isolated = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, "sh", str(folder / "mount")]
    if subprocess.run([*isolated, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small file system needs root and mount namespaces")
    command = [sys.executable, "-m", "tests.disk_faults", str(folder / "mount")]
    result = subprocess.run([*isolated, *command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def test_a_full_disk_delays_no_rollback(faults: dict[str, Any]) -> None:
    gone = {"served": "stable", "canaries": 0, "phase": "idle"}
    assert faults["full"] == {**gone, "outcome after a restart": "rolled-back", "stored": True}
    # A restart finds an old state, whose lease has expired.
    assert faults["nothing reserved"].items() >= {**gone, "stored": False}.items()
    assert faults["a new rollout"] == "No space left on device"
    assert faults["abort on a full disk"] == "a person"
    assert faults["stored again"] is True


def test_nginx_is_switched_on_a_full_disk(faults: dict[str, Any]) -> None:
    assert (faults["select on a full disk"], faults["selected"]) == ("", True)


def test_a_read_only_disk_delays_no_rollback(faults: dict[str, Any]) -> None:
    """NGINX cannot be switched then, so the canaries are removed: their requests are retried on stable."""
    assert faults["select on a read-only disk"] == "Read-only file system"
    assert (faults["read-only"]["phase"], faults["read-only"]["stored"]) == ("rolling-back", False)
    assert faults["canaries after 5 s"] == 0


async def test_a_hanging_disk_delays_no_rollback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stack = serving(FakeStack(tmp_path, at_step()))
    hangs = threading.Event()
    monkeypatch.setattr("app.controller._STORE_TIMEOUT_SECONDS", 0.01)
    monkeypatch.setattr(stack.file, "store", hangs.wait)
    stack.verdict = verdict("rollback", "errors")
    try:
        with assert_prompt():
            state = await stack.ticks(2)
    finally:
        hangs.set()
    assert (state.phase, stack.served, versions(stack)) == ("idle", "stable", {("stable", "a")})


async def test_a_rollout_does_not_advance_while_its_state_cannot_be_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = serving(FakeStack(tmp_path, at_step()))

    def full() -> None:
        raise OSError("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(stack.file, "store", full)
        await stack.ticks(1)
        stack.verdict = verdict("promote")
        state = await stack.ticks(2)
    assert (state.step, state.verdict["verdict"]) == (0, "hold")
    state = await stack.ticks(2)
    assert state.step == 1


async def test_an_invalid_file_under_a_running_service_is_replaced(tmp_path: Path) -> None:
    stack = serving(FakeStack(tmp_path, at_step()))
    await stack.ticks(1)
    (tmp_path / "rollout.json").write_text("{", encoding="utf-8")
    stack.verdict = verdict("rollback", "errors")
    assert (await stack.ticks(2)).phase == "idle" and stack.served == "stable"
    assert StateFile(tmp_path, tmp_path / "restarted").load().outcome == "rolled-back"


# Drivers --------------------------------------------------------------------------------------------------------------


async def test_a_late_driver_cannot_end_the_rollout_of_another(tmp_path: Path) -> None:
    stack = serving(FakeStack(tmp_path, at_step()))
    await stack.ticks(1)
    stack.now += LEASE + 1
    assert (await stack.ticks(2)).phase == "idle", "the first driver is frozen"
    stack.file.change(lambda state: state_machine.start(state, request(version="v3"), "two", stack.now, LEASE))
    for command in (
        lambda state: state_machine.renew(state, "one", stack.now, LEASE),
        lambda state: state_machine.abort(state, "one", "its driver failed", stack.now),
        lambda state: state_machine.complete_restore(state, "one", stack.now),
    ):
        with pytest.raises(InvalidTransition, match="Rollout one is not the current one"):
            stack.file.change(command)
    state = await stack.ticks(2)
    assert (state.id, state.phase, state.version) == ("two", "provisioning", "v3")


async def test_of_two_drivers_at_once_one_starts(tmp_path: Path) -> None:
    stack = FakeStack(tmp_path, Rollout())
    stack.file.change(lambda state: state_machine.start(state, request(observed=""), "one", NOW, LEASE))
    with pytest.raises(InvalidTransition, match="one of v2 is in progress"):
        stack.file.change(lambda state: state_machine.start(state, request(observed=""), "two", NOW, LEASE))
    assert (await stack.ticks(1)).id == "one"


async def test_a_driver_that_loses_the_network_for_90_seconds_finds_stable_alone(tmp_path: Path) -> None:
    stack = serving(FakeStack(tmp_path, promoting()))
    stack.containers += others("canary", "b") + [stable("account-service", 3, "b")]
    await stack.ticks(45)
    state = stack.file.load()
    assert (state.phase, stack.served, versions(stack)) == ("idle", "stable", {("stable", "a")})
    assert stack.notifications[0] == "rolling-back: lease expired: no renewal from ansible"
    with pytest.raises(InvalidTransition, match="no longer in progress"):
        state_machine.renew(state, "one", stack.now, LEASE)


async def test_a_replica_that_a_late_command_starts_is_removed(tmp_path: Path) -> None:
    stack = serving(FakeStack(tmp_path, promoting()))
    stack.file.change(lambda state: state_machine.abort(state, "one", "a person", NOW))
    assert (await stack.ticks(2)).phase == "idle"
    stack.containers += [stable("account-service", 3, "b"), *others("canary", "b")]
    await stack.ticks(9)
    assert versions(stack) == {("stable", "a")}


# Outages --------------------------------------------------------------------------------------------------------------


async def test_a_gap_of_prometheus_holds_and_ends_in_one_version(tmp_path: Path) -> None:
    for seconds, outcome in ((80, "canary"), (110, "idle")):
        stack = serving(FakeStack(tmp_path / outcome, at_step()))
        stack.verdict = verdict("hold", "no-data")
        for _ in range(seconds // 2):
            stack.file.change(
                lambda state: state if state.phase != "canary" else state_machine.renew(state, "one", NOW + 999, LEASE)
            )
            await stack.ticks(1)
        state = stack.file.load()
        assert state.phase == outcome, state.reason
    assert "no verdict within 100 s" in state.reason and versions(stack) == {("stable", "a")}
    assert any("no verdict" in note for note in stack.notifications)


async def test_an_analysis_that_hangs_ends_the_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.controller._ANALYSIS_TIMEOUT_SECONDS", 0.001)
    stack = serving(FakeStack(tmp_path, at_step()))

    async def hang(_state: Rollout, _now: float) -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    stack.analyze = hang  # type: ignore[method-assign]
    stack.controller = stack.process()
    await stack.ticks(1)
    stack.file.change(lambda state: state_machine.renew(state, "one", NOW + 999, LEASE))
    state = await stack.ticks(70)
    assert (state.phase, state.reason, stack.served) == ("idle", "no analysis within 100 s", "stable")


@pytest.mark.parametrize("operation", ["nginx", "docker"])
async def test_a_rollback_whose_own_step_fails_is_retried_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    stack = serving(FakeStack(tmp_path, at_step()))
    await stack.ticks(1)

    def refuse(_containers: object) -> None:
        raise DockerError("remove: no")

    with monkeypatch.context() as patched:
        if operation == "nginx":
            stack.nginx_error = NginxError("reload: no")
        else:
            patched.setattr(stack, "remove", refuse)
        stack.verdict = verdict("rollback", "errors")
        state = await stack.ticks(4)
        assert state.phase == "rolling-back"
        assert (stack.served == "stable") == (operation == "docker")
        # Without canaries, NGINX retries their requests on stable.
        assert any(container.track == "canary" for container in stack.containers) == (operation == "docker")
        stack.now += 301
        await stack.ticks(3)
    overdue = [note for note in stack.notifications if "ROLLBACK NOT COMPLETE after 5 minutes (errors)" in note]
    assert len(overdue) == 1
    stack.nginx_error = None
    state = await stack.ticks(2)
    assert (state.phase, stack.served, versions(stack)) == ("idle", "stable", {("stable", "a")})


async def test_a_rollback_after_promotion_that_nobody_restores_is_reported(tmp_path: Path) -> None:
    stack = FakeStack(tmp_path, state_machine.abort(done(), "one", "a person", NOW))
    stack.containers += others("previous", "a")
    await stack.ticks(1)
    stack.now += 301
    state = await stack.ticks(2)
    assert (stack.served, state.phase) == ("previous", "rolling-back"), "all clients are on one version"
    assert "ROLLBACK NOT COMPLETE" in stack.notifications[-1]
