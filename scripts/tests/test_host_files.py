"""Root never follows, changes, prints or blocks on what a container created in a folder that it may write to."""

import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scripts.stack import host_files, stack_files
from shared.testing.paths import ROOT

_VICTIM = "only root may read this\n"
# Each of these would block, or read or write outside the folder.
pytestmark = pytest.mark.timeout(60)


def _fifo(place: Path, _victims: Path) -> None:
    os.mkfifo(place)


KINDS: dict[str, Callable[[Path, Path], object]] = {
    "link to a file": lambda place, victims: place.symlink_to(victims / "file"),
    "link to nothing": lambda place, victims: place.symlink_to(victims / "missing"),
    "link to a folder": lambda place, victims: place.symlink_to(victims / "folder"),
    "second name": lambda place, victims: place.hardlink_to(victims / "file"),
    "pipe": _fifo,
}


@pytest.fixture
def victims(tmp_path: Path) -> Path:
    """A file and a folder that no container may reach."""
    folder = tmp_path / "victims"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_text(_VICTIM, encoding="utf-8")
    (folder / "file").chmod(0o600)
    (folder / "folder").chmod(0o700)
    return folder


def _seen(victims: Path) -> list[tuple[str, int, int, int, str]]:
    """Return name, mode, owner and content of each file."""
    found = []
    for path in sorted([victims, *victims.rglob("*")]):
        state = path.lstat()
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        found.append((path.name, state.st_mode, state.st_uid, state.st_gid, text))
    return found


@pytest.fixture
def docker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """VAR_DIR/docker of a stack with the variables of .env."""
    for name, value in re.findall(r"^([A-Z_]+)=(.*)$", (ROOT / ".env").read_text(encoding="utf-8"), re.MULTILINE):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VAR_DIR", str(tmp_path / "var"))
    return tmp_path / "var" / "docker"


def _writable_for_a_container(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(folder, host_files.CONTAINER_USER, host_files.CONTAINER_USER)
    else:
        folder.chmod(0o777)


def _unchanged(victims: Path, before: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert _seen(victims) == before
    said = capsys.readouterr()
    assert _VICTIM.strip() not in said.out + said.err


def test_the_test_knows_every_folder_of_the_host_that_a_container_writes_to() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    found = set()
    for name, service in services.items():
        for volume in service.get("volumes", []):
            if isinstance(volume, str):
                source, _, rest = volume.partition(":") if not volume.startswith("$") else volume.partition("}:")
                assert source[0] not in "./$" or rest.endswith(":ro"), f"{name} writes to {source}"
            elif not volume.get("read_only") and "SOCKET" not in volume["source"]:
                found.add((name, volume["source"]))
    # rollout-proxy holds Docker's socket: it is root on the host in any case.
    assert found == {("rollout-service", "${ROLLOUT_DIR}"), ("rollout-proxy", "${VAR_DIR}/docker/nginx/selected")}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_the_folder_of_the_state_is_followed(
    docker: Path, victims: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    _writable_for_a_container(docker / "rollout")
    for name in ("rollout.tmp", "rollout.lock", ".rollout.json.tmp", "verdicts"):
        KINDS[kind](docker / "rollout" / name, victims)
    before = _seen(victims)
    assert stack_files.main() == 0
    KINDS[kind](docker / "rollout/rollout.json", victims)
    assert stack_files.main() == 1
    (docker / "rollout/rollout.json").unlink()
    (docker / "rollout/rollout.json").mkdir()
    assert stack_files.main() == 1
    _unchanged(victims, before, capsys)


# In earlier releases rollout-service could write to all of NGINX's folder.
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "places",
    [
        ["nginx.conf", ".nginx.conf.tmp", "prepared", "selected"],
        ["prepared/stable.conf", "prepared/.stable.conf.tmp", "prepared/of-another-release.conf"]
        + ["selected/nginx.conf", "selected/.nginx.conf.tmp"],
    ],
    ids=["above", "below"],
)
def test_nothing_in_a_folder_that_was_once_given_away_is_followed(
    docker: Path, victims: Path, capsys: pytest.CaptureFixture[str], places: list[str], kind: str
) -> None:
    _writable_for_a_container(docker / "nginx")
    for place in places:
        planted = docker / "nginx" / place
        _writable_for_a_container(planted.parent)
        KINDS[kind](planted, victims)
    before = _seen(victims)
    assert stack_files.main() == 0
    _unchanged(victims, before, capsys)
    _root_owns_all_of(docker / "nginx")
    assert (docker / "nginx/selected/nginx.conf").read_text(encoding="utf-8").startswith("include /etc/nginx/bank/")
    assert "rollout-service" in (docker / "nginx/prepared/stable.conf").read_text(encoding="utf-8")


def _root_owns_all_of(folder: Path) -> None:
    for path in (folder, *folder.rglob("*")):
        state = path.lstat()
        assert state.st_uid == os.geteuid() and (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode)), path
        # In a folder of a non-root user, rollout-proxy has only the permissions of others.
        assert not state.st_mode & 0o022 or (os.geteuid() != 0 and path.name == "selected"), path


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_is_written_over_whatever_is_there(
    docker: Path, victims: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    assert stack_files.main() == 0
    for name in ("nginx.conf", ".nginx.conf.tmp"):
        (docker / "nginx/selected" / name).unlink(missing_ok=True)
        KINDS[kind](docker / "nginx/selected" / name, victims)
    before = _seen(victims)
    assert stack_files.main() == 0
    _unchanged(victims, before, capsys)
    assert stat.S_ISREG((docker / "nginx/selected/nginx.conf").lstat().st_mode)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_inode", [True, False])
@pytest.mark.parametrize("name", ["file", ".file.tmp"])
def test_a_file_is_never_written_through_a_link(
    tmp_path: Path, victims: Path, kind: str, keep_inode: bool, name: str
) -> None:
    (tmp_path / "ours").mkdir()
    KINDS[kind](tmp_path / "ours" / name, victims)
    before = _seen(victims)
    assert host_files.write(tmp_path / "ours/file", "new", keep_inode=keep_inode)
    # The hard link was removed, nothing else changed.
    assert [entry[1:] for entry in _seen(victims)] == [one[1:] for one in before]
    written = (tmp_path / "ours/file").lstat()
    assert stat.S_IMODE(written.st_mode) == 0o644 and written.st_nlink == 1
    assert not host_files.write(tmp_path / "ours/file", "new", keep_inode=keep_inode)


def test_no_folder_is_written_to_by_way_of_a_link(tmp_path: Path, victims: Path) -> None:
    (tmp_path / "link").symlink_to(victims / "folder")
    before = _seen(victims)
    for write in (
        lambda: host_files.write(tmp_path / "link/file", "new"),
        lambda: host_files.make_container_folder(tmp_path / "link"),
    ):
        with pytest.raises(OSError):
            write()
    host_files.make_private_folder(tmp_path / "link", 0o755)
    assert _seen(victims) == before and not (tmp_path / "link").is_symlink()


def test_a_state_that_is_too_long_or_no_text_is_not_read(tmp_path: Path) -> None:
    for content in (b"x" * (1024 * 1024 + 1), b"\xff\xfe"):
        (tmp_path / "rollout.json").write_bytes(content)
        with pytest.raises(host_files.UnsafeFile):
            host_files.read(tmp_path / "rollout.json")


def test_an_invalid_state_prevents_a_start(docker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _writable_for_a_container(docker / "rollout")
    odd = ("", "[]", "null", '{"phase": null}', '{"phase": []}', '{"phase": "paused"}', "[" * 100_000, '{"phase": 1')
    for text in odd:
        (docker / "rollout/rollout.json").write_text(text, encoding="utf-8")
        assert stack_files.main() == 1
        assert "is not a valid state file" in capsys.readouterr().err
