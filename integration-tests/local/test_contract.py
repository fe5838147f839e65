"""The recorded responses of the contract probe are those of this version."""

import os
import subprocess
import sys
from pathlib import Path

from harness.local_stack import LocalBank

from shared.testing import lab_keys
from shared.testing.paths import ROOT


def test_the_recorded_contract_is_the_services_own(bank: LocalBank, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(lab_keys.sign(bank.lab.secrets.key, "rollout-service", "bank:synthetic"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "app.contract_probe", bank.api_url, str(token)],
        cwd=ROOT / "rollout-service",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, f"change rollout-service/app/contract.json:\n{done.stdout}{done.stderr}"
