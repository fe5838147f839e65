"""How many canaries a rollout starts. Docker is a stand-in that counts as it is told: nothing is started."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from shared.testing.paths import ROOT

_TOOL = ROOT / "ansible" / "roles" / "nginx_canary" / "files" / "rollout.sh"
# Lists as many containers as the file of the service says, and writes down what else it is asked.
_DOCKER = """#!/bin/bash
asked=$*
service=${asked##*compose.service=}
case "$asked" in
    ps*) seq "$(cat "$0.${service%% *}")" ;;
    exec*) if [ -e "$0.refuses" ]; then exit 3; else echo '{"phase": "canary"}'; fi ;;
    *) echo "$asked" >>"$0.asked" ;;
esac
"""


class Tool:
    """rollout.sh beside a stack of which only the numbers exist."""

    def __init__(self, folder: Path) -> None:
        self.docker = folder / "docker"
        self.docker.write_text(_DOCKER, encoding="utf-8")
        self.docker.chmod(0o755)
        (folder / ".env").write_text("COMPOSE_PROJECT_NAME=bank\n", encoding="utf-8")
        self.tool = Path(shutil.copy(_TOOL, folder))
        self.running("rollout-service", 1)

    def running(self, service: str, count: int) -> None:
        """Let so many containers of a service run."""
        self.docker.with_name(f"docker.{service}").write_text(str(count), encoding="utf-8")

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PATH": f"{self.docker.parent}:{os.environ['PATH']}"}
        return subprocess.run([self.tool, *arguments], env=environment, capture_output=True, text=True, check=False)

    @property
    def asked(self) -> list[str]:
        """What Docker was asked to change."""
        asked = self.docker.with_name("docker.asked")
        return asked.read_text(encoding="utf-8").splitlines() if asked.exists() else []


@pytest.fixture
def tool(tmp_path: Path) -> Tool:
    return Tool(tmp_path)


@pytest.mark.parametrize(
    ("stable", "share", "canaries"),
    [(1, 10, 1), (9, 10, 1), (10, 10, 2), (2, 50, 2), (5, 50, 5), (3, 25, 1), (2, 90, 2), (4, 99, 4), (0, 50, 0)],
)
def test_no_canary_gets_more_clients_than_a_stable_replica(tool: Tool, stable: int, share: int, canaries: int) -> None:
    tool.running("account-service", stable)
    tool.running("transaction-service", 1)
    found = json.loads(tool("canary_count", str(share)).stdout)
    assert found == {"account-service": canaries, "transaction-service": 1}
    assert json.loads(tool("replicas").stdout) == {"account-service": stable, "transaction-service": 1}


@pytest.mark.parametrize(("stable", "share", "canaries"), [(1, 10, 1), (1, 50, 2), (2, 50, 3), (9, 10, 2), (2, 90, 3)])
def test_a_baseline_serves_as_many_clients_as_a_stable_replica(
    tool: Tool, stable: int, share: int, canaries: int
) -> None:
    for service in ("account-service", "transaction-service"):
        tool.running(service, stable)
    expected = dict.fromkeys(("account-service", "transaction-service"), canaries)
    assert json.loads(tool("canary_count", str(share), "baseline").stdout) == expected
    # Once it runs, it counts without being announced.
    tool.running("account-service-baseline", 1)
    tool.running("transaction-service-baseline", 1)
    assert json.loads(tool("canary_count", str(share)).stdout) == expected


def test_canaries_grow_with_stable_and_never_shrink(tool: Tool) -> None:
    tool.running("account-service", 5)
    tool.running("account-service-canary", 2)
    tool.running("transaction-service", 1)
    tool.running("transaction-service-canary", 2)
    done = tool("ensure_canaries", "a-rollout", "50")
    assert (done.returncode, json.loads(done.stdout)["phase"]) == (0, "canary"), done.stderr
    (asked,) = tool.asked
    assert asked.startswith("compose up ") and "--no-recreate" in asked
    assert asked.endswith("--scale account-service-canary=5 account-service-canary")


@pytest.mark.parametrize("canaries, code", [(0, 0), (2, 3)])
def test_rolled_back_or_rejected_rollouts_get_no_canaries(tool: Tool, canaries: int, code: int) -> None:
    for service in ("account-service", "transaction-service"):
        tool.running(service, 5)
        tool.running(f"{service}-canary", canaries)
    if code:
        tool.docker.with_name("docker.refuses").touch()
    assert tool("ensure_canaries", "a-rollout", "50").returncode == code
    assert tool.asked == []


_IMAGE = f"bank/account-service@sha256:{'a' * 64}"
_REVISION = "1" * 64


@pytest.mark.parametrize(
    "command",
    [
        ("start_canaries", "a-rollout", "baseline"),
        ("start_previous", "a-rollout"),
        ("scale_up", "a-rollout", "account-service", _IMAGE, _REVISION),
        ("drain", "a-rollout", "account-service", _IMAGE, _REVISION),
        ("restore_scale_up", "a-rollout", "account-service", _IMAGE, _REVISION),
        ("restore_drain", "a-rollout", "account-service", _IMAGE, _REVISION),
        ("provisioned", "a-rollout"),
    ],
)
def test_a_command_for_another_rollout_changes_no_replica(tool: Tool, command: tuple[str, ...]) -> None:
    tool.running("account-service", 2)
    tool.docker.with_name("docker.refuses").touch()
    done = tool(*command)
    assert (done.returncode == 3 or done.stdout == "waiting\n") and tool.asked == [], done.stderr


_SLOW_DOCKER = """#!/bin/bash
case "$*" in
    ps*) echo 1 ;;
    exec*) echo "${*: -2}" >>"$0.checked"; [ ! -e "$0.refuses" ] || exit 3 ;;
    compose*)
        # Until the lease has been renewed meanwhile.
        until [ "$(wc -l <"$0.checked")" -ge 3 ]; do sleep 0.1; done
        ENDS
        ;;
esac
"""


@pytest.mark.parametrize("refuses", [False, True])
def test_a_long_command_renews_the_lease_and_stops_when_the_rollout_has_ended(tool: Tool, refuses: bool) -> None:
    text = tool.tool.read_text(encoding="utf-8")
    assert "renew_seconds=5" in text
    tool.tool.write_text(text.replace("renew_seconds=5", "renew_seconds=0"), encoding="utf-8")
    ends = 'touch "$0.refuses"; exec sleep 60 >/dev/null 2>&1' if refuses else ":"
    tool.docker.write_text(_SLOW_DOCKER.replace("ENDS", ends), encoding="utf-8")
    done = tool("start_canaries", "a-rollout", "baseline")
    checked = tool.docker.with_name("docker.checked").read_text(encoding="utf-8").splitlines()
    assert done.returncode == (3 if refuses else 0), done.stderr
    assert set(checked) == {"renew a-rollout"} and len(checked) >= 3


def test_commands_name_the_rollout(tool: Tool) -> None:
    for command in (
        ("abort", "because"),
        ("restored",),
        ("start_canaries",),
        ("start_previous",),
        ("scale_up", "x", _IMAGE, _REVISION),
    ):
        assert tool(*command).returncode == 2
    assert tool("abort", "current", "because").returncode == 0


def test_without_rollout_service_it_names_what_to_start(tool: Tool) -> None:
    tool.running("rollout-service", 0)
    done = tool("abort", "current", "because")
    assert done.returncode == 1 and "rollout-service is not running; start it: docker compose up" in done.stderr


# Two replicas of one image with the old configuration, and as many with the new one as the file says.
_VERSIONS = """#!/bin/bash
case "$*" in
    ps*rollout-service*) echo rollout-service ;;
    ps*) echo old-1; echo old-2; seq --format=new-%g "$(cat "$0.new")" ;;
    exec*) echo '{"phase": "promoting"}' ;;
    image*) echo sha256:a ;;
    inspect*new-*) echo "sha256:a $NEW" ;;
    inspect*) echo "sha256:a OLD" ;;
    *) echo "$* $ACCOUNT_SERVICE_IMAGE $ACCOUNT_SERVICE_REVISION" >>"$0.asked" ;;
esac
"""


@pytest.mark.parametrize("old", ["2" * 64, ""], ids=["of another revision", "of an earlier release"])
def test_settings_replace_replicas_of_the_same_image(tool: Tool, old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEW", _REVISION)
    tool.docker.write_text(_VERSIONS.replace("OLD", old), encoding="utf-8")
    version = ("a-rollout", "account-service", _IMAGE, _REVISION)
    tool.running("new", 1)
    assert tool("scale_up", *version).stdout == "waiting\n"
    (asked,) = tool.asked
    assert "--scale account-service=4" in asked and asked.endswith(f"{_IMAGE} {_REVISION}")
    assert tool("drain", *version).returncode == 1, "not enough new replicas"
    tool.running("new", 2)
    assert tool("scale_up", *version).stdout == "done\n"
    assert tool("drain", *version).stdout == "waiting\n"
    assert (tool.tool.parent / ".draining-account-service").read_text(encoding="utf-8") == "old-1\n"
    # Drivers of earlier releases compare images only.
    assert tool("drain", *version[:3], "").stdout == "done\n"


@pytest.mark.parametrize("revision", ["1" * 63, "1" * 65, "A" * 64, "../" + "1" * 61, "1" * 64 + "\n", "-x"])
def test_a_revision_has_one_form(tool: Tool, revision: str) -> None:
    for command in ("scale_up", "drain", "restore_scale_up", "restore_drain"):
        done = tool(command, "a-rollout", "account-service", _IMAGE, revision)
        assert done.returncode == 1 and "the revision of a configuration" in done.stderr
    assert tool.asked == []
