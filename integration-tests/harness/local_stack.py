"""The bank on the local stack."""

import os
import subprocess
import sys

from harness.client import Bank, output_of

from shared.testing.local_stack import LocalStack
from shared.testing.paths import ROOT


class LocalBank(Bank):
    """A bank whose processes a test may stop and start."""

    def __init__(self, stack: LocalStack) -> None:
        super().__init__(stack.api_url, stack.secrets)
        self.stack = stack

    def run_module(self, service: str, module: str) -> str:
        environment = {**os.environ, **self.stack.environment(service)}
        command = [sys.executable, "-m", module]
        done = subprocess.run(
            command, cwd=ROOT / service, env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run_demo(self) -> str:
        """Run the demo on this bank and return its output; fail unless all steps succeed."""
        environment = {
            **os.environ,
            "VAR_DIR": str(self.stack.var_dir),
            "BASE_URL": self.stack.api_url,
            "PYTHONPATH": "clients/python",
        }
        return output_of([sys.executable, "-m", "scripts.local.demo"], environment, 300, with_errors=True)

    def close(self) -> None:
        super().close()
        self.stack.stop()
