"""A release contains exactly the files of a commit, independent of git's settings, attributes and the working tree."""

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from scripts.release import commit_tree
from scripts.release.commit_tree import TreeError
from shared.testing.paths import ROOT

_ENVIRONMENT = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    **{f"GIT_{who}_{what}": "a@b.example" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
    "GIT_CONFIG_GLOBAL": os.devnull,
}


def git(root: Path, *arguments: str) -> str:
    command = ["git", "-c", "commit.gpgsign=false", *arguments]
    return subprocess.run(
        command, cwd=root, env=_ENVIRONMENT, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project of three files, committed."""
    root = tmp_path / "project"
    (root / "docker").mkdir(parents=True)
    (root / "app.py").write_text("commit = '$Format:%H$'\n", encoding="utf-8")
    (root / "docker" / "run.sh").write_text("#!/bin/sh\n", encoding="utf-8")
    (root / "docker" / "run.sh").chmod(0o755)
    (root / ".gitattributes").write_text("app.py export-subst\nrun.sh export-ignore filter=mine\n", encoding="utf-8")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "first")
    return root


def exported(root: Path, commit: str = "HEAD") -> dict[str, str]:
    """Return what an export writes, by path."""
    folder = root.parent / "exported"
    shutil.rmtree(folder, ignore_errors=True)
    commit_tree.export(root, commit, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8") for path in files}


def test_what_git_would_change_or_leave_out_is_exported_as_committed(root: Path) -> None:
    git(root, "config", "filter.mine.smudge", "echo smudged")
    git(root, "config", "core.autocrlf", "true")
    (root / ".git" / "info" / "attributes").write_text("* export-ignore\n", encoding="utf-8")
    (root / ".git" / "info" / "exclude").write_text("*.secret\n", encoding="utf-8")
    (root / "docker" / "ignored.secret").touch()
    (root / "app.py").write_text("changed\n", encoding="utf-8")
    found = exported(root)
    assert set(found) == {".gitattributes", "app.py", "docker/run.sh"}
    assert (found["app.py"], found["docker/run.sh"]) == ("commit = '$Format:%H$'\n", "#!/bin/sh\n")
    assert os.access(root.parent / "exported" / "docker" / "run.sh", os.X_OK)


def test_replaced_objects_are_ignored(root: Path) -> None:
    (root.parent / "evil").write_text("evil\n", encoding="utf-8")
    evil = git(root, "hash-object", "-w", str(root.parent / "evil"))
    git(root, "replace", git(root, "rev-parse", "HEAD:app.py"), evil)
    assert exported(root)["app.py"].startswith("commit")


@pytest.mark.parametrize("kind", ["link", "submodule"])
def test_links_and_submodules_are_rejected(root: Path, kind: str) -> None:
    if kind == "link":
        (root / "linked").symlink_to("/etc/hostname")
        git(root, "add", "linked")
    else:
        git(root, "update-index", "--add", "--cacheinfo", f"160000,{git(root, 'rev-parse', 'HEAD')},linked")
    git(root, "commit", "--quiet", "--message", kind)
    for refused in (lambda: exported(root), lambda: commit_tree.differences(root, "HEAD", ["linked"])):
        with pytest.raises(TreeError, match="linked is a link or a submodule"):
            refused()


def test_a_missing_commit_is_rejected(root: Path) -> None:
    with pytest.raises(TreeError):
        commit_tree.differences(root, "a" * 40, ["docker"])


def test_a_tree_as_committed_has_no_differences(root: Path) -> None:
    (root / "docker" / "__pycache__").mkdir()
    (root / "docker" / "__pycache__" / "x.pyc").touch()
    (root / "elsewhere").touch()
    assert commit_tree.differences(root, "HEAD", ["app.py", "docker"]) == []


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ("echo more >>app.py", "changed: app.py"),
        ("echo more >>app.py; git update-index --assume-unchanged app.py", "changed: app.py"),
        ("git config filter.mine.clean 'echo \\#!/bin/sh'; echo evil >docker/run.sh", "changed: docker/run.sh"),
        ("chmod -x docker/run.sh", "changed: docker/run.sh"),
        ("rm app.py", "missing: app.py"),
        ("mv app.py ../moved; ln -s ../moved app.py", "changed: app.py"),
        ("touch docker/new", "not in the commit: docker/new"),
        ("echo new >.git/info/exclude; touch docker/new", "not in the commit: docker/new"),
        ("mkdir docker/sub; ln -s /etc docker/sub/etc", "not in the commit: docker/sub/etc"),
        ("mv docker ../moved; ln -s ../moved docker", "missing: docker/run.sh"),
    ],
)
def test_differences_of_the_tree_are_reported(root: Path, change: str, difference: str) -> None:
    subprocess.run(["sh", "-c", change], cwd=root, env=_ENVIRONMENT, check=True)
    assert difference in commit_tree.differences(root, "HEAD", ["app.py", "docker"])


# Records the files of the build context.
_DOCKER = """#!/bin/sh
[ "$1" = buildx ] || exit 0
for last; do :; done
(cd "$last" && find . -type f -not -path './.git/*') >>"$BUILT"
"""


_BUILDING = (
    ".env",
    *("scripts/__init__.py", "scripts/release/__init__.py", "shared/__init__.py", "shared/testing/__init__.py"),
    "scripts/stack/stack_env.sh",
    "scripts/lib/progress.sh",
    "scripts/release/commit_tree.py",
    "shared/testing/paths.py",
)


def copy_from_project(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)


@pytest.mark.parametrize("commit", [True, False])
def test_a_release_is_built_from_the_commit_alone(root: Path, commit: bool) -> None:
    copy_from_project(root, "scripts/build-images.sh", "scripts/lib/registry.sh", *_BUILDING)
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "second")
    (root / "docker" / "planted.py").touch()
    programs = root.parent / "bin"
    programs.mkdir()
    (programs / "docker").write_text(_DOCKER, encoding="utf-8")
    (programs / "docker").chmod(0o755)
    built = root.parent / "built"
    environment = {**_ENVIRONMENT, "PATH": f"{programs}:{os.environ['PATH']}", "BUILT": str(built), "SERVICES": "one"}
    environment |= {"BUILD_COMMIT": git(root, "rev-parse", "HEAD")} if commit else {}
    subprocess.run(["scripts/build-images.sh"], cwd=root, env=environment, check=True, capture_output=True)
    found = built.read_text(encoding="utf-8").split()
    assert "./docker/run.sh" in found and ("./docker/planted.py" in found) is not commit


@pytest.mark.parametrize(
    ("change", "variables", "said"),
    [
        ("echo more >>app.py", {}, "the working tree has uncommitted changes"),
        ("true", {"BUILD": "0"}, "only allowed for rehearsal releases"),
    ],
)
def test_uncommitted_content_is_not_released(root: Path, change: str, variables: dict[str, str], said: str) -> None:
    copy_from_project(
        root, "scripts/release/release.sh", "scripts/stack/stack_env.sh", "scripts/lib/registry.sh", ".env"
    )
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "second")
    subprocess.run(["sh", "-c", change], cwd=root, check=True)
    environment = {**_ENVIRONMENT, "REGISTRY": "registry.example", "ATTEST": "0", **variables}
    done = subprocess.run(
        ["scripts/release/release.sh", "release.json"],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and said in done.stderr


def test_all_code_of_a_deployment_is_compared_with_the_commit() -> None:
    """What Ansible loads by its configuration, and the packages whose modules the roles run."""
    role = yaml.safe_load((ROOT / "ansible/roles/banking_app/vars/main.yml").read_text(encoding="utf-8"))
    compared = [Path(path) for path in role["banking_app_release_paths"]]
    configuration = configparser.ConfigParser()
    configuration.read(ROOT / "ansible.cfg")
    loaded = {"ansible/playbooks", configuration["defaults"]["roles_path"], configuration["defaults"]["filter_plugins"]}
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "ansible").rglob("*.yml")]
    modules = {module for text in texts for module in re.findall(r"-m'?,? '?([a-z_]+)\.[a-z_.]+", text)}
    assert modules >= {"scripts", "shared"}
    for path in map(Path, loaded | modules):
        assert any(path == one or one in path.parents for one in compared), path
