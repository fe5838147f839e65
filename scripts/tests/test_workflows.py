"""The workflows are thin, pinned and have minimal permissions, and the gate needs all jobs."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts.ci.workflow_jobs import WORKFLOWS, expand, load
from scripts.docs import document_names
from shared.testing.paths import ROOT

NAMES = sorted(path.name for path in WORKFLOWS.glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
# Jobs that may write, and what; everything else reads.
MAY_WRITE = {
    ("ci.yml", "comment"): {"pull-requests"},
    ("ci.yml", "ready"): {"contents", "pull-requests"},
    ("cve-scan.yml", "report"): {"issues"},
    ("deploy.yml", "build"): {"packages", "id-token"},
    ("deploy.yml", "failed"): {"issues"},
    ("nightly.yml", "report"): {"issues"},
}
# Jobs that use a token only to read: the state of CI, images.
WITH_A_TOKEN = {("deploy.yml", "ci-green"), ("deploy.yml", "staging"), ("deploy.yml", "production")}
JOBS = [(name, key, job) for name in NAMES for key, job in load(name)["jobs"].items()]
STEPS = [(name, key, step) for name, key, job in JOBS for step in job.get("steps", [])]
each_job = pytest.mark.parametrize(("name", "key", "job"), JOBS, ids=[f"{name}-{key}" for name, key, _ in JOBS])


def test_all_workflows_exist() -> None:
    assert NAMES == ["ci.yml", "cve-scan.yml", "deploy.yml", "nightly.yml", "security-scan.yml"]


@pytest.mark.parametrize("run", sorted({step["run"] for _, _, step in STEPS if "run" in step}))
def test_workflows_only_run_make_targets_and_scripts(run: str) -> None:
    command = run.removeprefix("sudo ")
    assert "\n" not in run and "${{" not in run, "values come by the environment, where no shell reads them as code"
    if found := re.fullmatch(r"make ([a-z-]+)", command):
        assert found[1] in TARGETS
    elif found := re.fullmatch(r"python3 -m (scripts(?:\.\w+)+)( [\w./-]+)*", command):
        assert (ROOT / f"{found[1].replace('.', '/')}.py").is_file()
    else:
        # A script may be called with a make command, whose target must exist.
        assert set(re.findall(r"(?<= make )[a-z-]+", command)) <= TARGETS
        script = ROOT / command.split()[0]
        assert command.startswith("scripts/") and script.is_file() and script.stat().st_mode & 0o111


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_a_target_calls_scripts_that_exist(target: str) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)*)", text, re.MULTILINE)
    assert recipe is not None
    for script in re.findall(r"(?:^|\s)@?((?:scripts|load-tests)/[\w/.-]+\.(?:sh|py))", recipe[1]):
        assert (ROOT / script).is_file(), script


def test_nothing_is_repeated_that_git_knows_otherwise() -> None:
    """Each action is pinned by commit, the same everywhere, with its version as a comment."""
    versions: dict[str, set[str]] = {}
    for name in NAMES:
        for line in (WORKFLOWS / name).read_text(encoding="utf-8").splitlines():
            if (found := re.search(r"uses: (\S+)(.*)", line)) and not found[1].startswith("./.github/workflows/"):
                assert re.fullmatch(r"[\w-]+/[\w/-]+@[0-9a-f]{40}", found[1]), line
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", found[2]), line
                versions.setdefault(found[1].split("@")[0], set()).add(found[0])
    assert versions and all(len(found) == 1 for found in versions.values()), versions


@each_job
def test_a_job_has_few_rights_and_an_end(name: str, key: str, job: dict[str, Any]) -> None:
    assert load(name)["permissions"] == {}
    rights = job["permissions"]
    written = {right for right, level in rights.items() if level == "write"}
    assert written == MAY_WRITE.get((name, key), set())
    assert set(rights.values()) <= {"read", "write"} and "contents" in rights
    assert "uses" in job or 0 < job["timeout-minutes"] <= 60


@pytest.mark.parametrize("name", NAMES)
def test_runs_are_limited_by_concurrency_groups(name: str) -> None:
    concurrency = load(name)["concurrency"]
    assert concurrency["group"]
    if "pull_request" in load(name)["on"]:
        assert "github.event_name == 'pull_request'" in concurrency["cancel-in-progress"]
    if name in ("deploy.yml", "cve-scan.yml", "nightly.yml"):
        assert concurrency["cancel-in-progress"] is False


def _on_pull_requests(name: str) -> bool:
    return name in ("ci.yml", "security-scan.yml")


@pytest.mark.parametrize("name", NAMES)
def test_pull_requests_of_forks_get_no_secrets_and_no_write_token(name: str) -> None:
    assert not {"pull_request_target", "workflow_run", "issue_comment"} & set(load(name)["on"])
    text = (WORKFLOWS / name).read_text(encoding="utf-8")
    if _on_pull_requests(name):
        assert not re.search(r"secrets(\.\w|\[|: inherit)", text)
    for key, job in load(name)["jobs"].items():
        checkouts = [step["with"] for step in job.get("steps", []) if "actions/checkout@" in step.get("uses", "")]
        assert all(checkout["persist-credentials"] is False for checkout in checkouts)
        if _on_pull_requests(name) and "write" in job["permissions"].values():
            # A job with write permissions runs the code of the base branch, never that of the pull request.
            assert [checkout.get("ref") for checkout in checkouts] == ["${{ github.event.pull_request.base.sha }}"], key


def test_a_token_is_only_where_it_is_needed() -> None:
    for name, key, step in STEPS:
        if "github.token" in str(step.get("env", {})):
            assert (name, key) in {*MAY_WRITE, *WITH_A_TOKEN}
    assert not [name for name, key, job in JOBS if "github.token" in str(job.get("env", {}))]


def test_the_scanners_hold_no_secret() -> None:
    for name in ("security-scan.yml", "cve-scan.yml"):
        assert not re.search(r"secrets(\.\w|\[|: inherit)", (WORKFLOWS / name).read_text(encoding="utf-8"))
    assert load("cve-scan.yml")["jobs"]["scan"]["permissions"] == {"contents": "read"}


def test_the_nightly_search_covers_what_pull_requests_search_less_widely() -> None:
    jobs = load("nightly.yml")["jobs"]
    assert int(jobs["search"]["env"]["SEARCH_FACTOR"]) >= 10
    searching = {
        path.relative_to(ROOT).parts[0 if "tests" == path.parent.name else 1]
        for pattern in ("*/tests/*.py", "integration-tests/*/test_*.py")
        for path in ROOT.glob(pattern)
        if re.search(r"^@given|examples\(|assert_conforms_to_openapi\(", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert searching - {"scripts"} <= set(jobs["search"]["strategy"]["matrix"]["suite"])
    assert set(jobs["drills"]["strategy"]["matrix"]["drill"]) <= document_names.drills()
    # A cancelled run does not count as a success.
    assert jobs["report"]["needs"] == ["search", "drills"] and jobs["report"]["if"] == "always()"


def test_ci_runs_on_every_way_to_a_branch_that_counts() -> None:
    on = load("ci.yml")["on"]
    assert set(on) == {"pull_request", "push"}
    assert on["pull_request"]["branches"] == on["push"]["branches"] == ["main", "develop", "release"]
    assert load("deploy.yml")["on"]["push"] == {"branches": ["main"]}
    assert load("cve-scan.yml")["on"]["schedule"] == [{"cron": "17 3 */2 * *"}]


def test_the_gate_needs_all_jobs() -> None:
    jobs = load("ci.yml")["jobs"]
    checks = [key for key in jobs if key not in ("gate", "comment", "ready")]
    assert jobs["gate"]["needs"] == checks and jobs["gate"]["if"] == "always()"
    assert jobs["comment"]["needs"] == [*checks, "gate"] and jobs["comment"]["if"].startswith("always()")
    # Without always(), so only after a green gate.
    assert jobs["ready"]["needs"] == ["gate"] and "always" not in jobs["ready"]["if"]
    assert not any(
        "needs" in jobs[key] or "if" in jobs[key] for key in checks
    ), "they run side by side, and all of them"
    assert not any("continue-on-error" in str(job) for _, _, job in JOBS)


def test_the_matrix_has_every_suite_that_has_tests() -> None:
    matrix = load("ci.yml")["jobs"]["unit"]["strategy"]["matrix"]
    folders = {path.parent.name for path in ROOT.glob("*/tests") if path.is_dir()}
    assert set(matrix["suite"]) == folders | {"local", "simulation"}
    assert matrix["python"] == ["3.11", "3.13"]


def test_the_deployment_goes_one_way() -> None:
    jobs = load("deploy.yml")["jobs"]
    assert jobs["build"]["needs"] == ["ci-green"]
    assert jobs["staging"]["needs"] == ["ci-green", "build"] and jobs["staging"]["environment"] == {"name": "staging"}
    assert jobs["production"]["needs"] == ["build", "staging"]
    assert jobs["production"]["environment"] == {"name": "production"}
    assert jobs["staging"]["if"] == "${{ !failure() && !cancelled() && !inputs.approve }}"
    # Production can be rolled back even if staging cannot.
    staged = "inputs.rollback || inputs.approve || needs.staging.result == 'success'"
    assert jobs["production"]["if"] == f"${{{{ !cancelled() && ({staged}) }}}}"
    assert set(jobs["failed"]["needs"]) == set(jobs) - {"failed"}
    assert set(load("deploy.yml")["on"]["workflow_dispatch"]["inputs"]) == {
        "version",
        "weights",
        "promote",
        "rollback",
        "approve",
        "keyless",
    }


def test_a_run_that_waits_for_approval_holds_one_environment_and_no_commit_is_lost_silently() -> None:
    deploy = load("deploy.yml")
    assert "github.run_id" in deploy["concurrency"]["group"], "runs do not wait for each other as a whole"
    groups = {name: job["concurrency"]["group"] for name, job in deploy["jobs"].items() if "concurrency" in job}
    assert groups.keys() == {"staging", "production"}
    for name, group in groups.items():
        assert group.startswith(f"deploy-{name}${{{{ inputs.rollback && '-rollback'"), "a rollback does not wait"
        assert deploy["jobs"][name]["concurrency"]["cancel-in-progress"] is False
    # GitHub cancels the job that waited when a newer one queues.
    assert deploy["jobs"]["failed"]["if"] == "${{ failure() || contains(needs.*.result, 'cancelled') }}"


def check_names() -> set[str]:
    """Return the names that GitHub gives the checks of a pull request."""
    return {job.name for job in expand("ci.yml")}


@pytest.mark.parametrize("path", sorted((ROOT / ".github" / "rulesets").glob("*.json")), ids=lambda path: path.stem)
def test_a_branch_is_held_by_checks_that_exist(path: Path) -> None:
    ruleset = json.loads(path.read_text(encoding="utf-8"))
    rules = {rule["type"]: rule.get("parameters", {}) for rule in ruleset["rules"]}
    assert ruleset["enforcement"] == "active" and ruleset["bypass_actors"] == []
    assert {"pull_request", "required_status_checks", "required_signatures", "non_fast_forward", "deletion"} <= set(
        rules
    )
    required = {check["context"] for check in rules["required_status_checks"]["required_status_checks"]}
    assert "gate" in required and required <= check_names()
    assert rules["pull_request"]["required_approving_review_count"] >= 1
    assert rules["pull_request"]["require_code_owner_review"]


def test_main_and_develop_are_protected() -> None:
    rulesets = [json.loads(path.read_text(encoding="utf-8")) for path in (ROOT / ".github" / "rulesets").glob("*.json")]
    protected = {ref for ruleset in rulesets for ref in ruleset["conditions"]["ref_name"]["include"]}
    assert {"refs/heads/main", "refs/heads/develop", "refs/heads/release"} <= protected


def test_owners_own_files_that_exist() -> None:
    lines = (ROOT / ".github" / "CODEOWNERS").read_text(encoding="utf-8").splitlines()
    rules = [line.split() for line in lines if line and not line.startswith("#")]
    assert rules[0][0] == "*"
    for pattern, *owners in rules:
        assert owners and all(owner.startswith("@") for owner in owners)
        assert pattern == "*" or (ROOT / pattern.strip("/")).exists(), pattern


def test_dependabot_watches_every_place_with_versions() -> None:
    dependabot = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))
    watched = {(one["package-ecosystem"], path) for one in dependabot["updates"] for path in one["directories"]}
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for file in map(Path, files):
        folder = f"/{file.parent}".rstrip(".") if file.parent != Path(".") else "/"
        if file.name.startswith("requirements") and file.suffix == ".txt":
            assert ("pip", folder) in watched, file
        # Dockerfiles of drills and faults extend images of a release and contain no version.
        elif file.name == "Dockerfile" and not str(file).startswith(("integration-tests/", "scripts/faults/")):
            assert ("docker", folder) in watched, file
        elif file.name == "go.mod":
            assert ("gomod", folder) in watched, file
    assert ("github-actions", "/") in watched
