"""`nginx_canary_id is orphaned`: the driver of the rollout, ansible-playbook, was killed.

Ansible runs a task in a process with its own session, which keeps evaluating `until` after ansible-playbook was killed;
it would renew the lease of a rollout without a driver until the step timeout.
"""

import multiprocessing
import os
from collections.abc import Callable


def orphaned(_rollout_id: str) -> bool:
    """Return whether ansible-playbook, the driver of the rollout and the parent of this process, has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()


class TestModule:  # pylint: disable=too-few-public-methods  # Ansible's interface
    """The tests of this file for Ansible."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        """Return the tests by name."""
        return {"orphaned": orphaned}
