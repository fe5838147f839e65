"""`nginx_canary_driver is terminated`: ansible-playbook was killed, and this is an orphaned process of it.

Ansible runs a task in a process with its own session, which keeps evaluating `until` after ansible-playbook was killed;
it would renew the lease of a rollout without a driver until the step timeout.
"""

import multiprocessing
import os
from collections.abc import Callable


def terminated(_driver: str) -> bool:
    """Return whether the process that started this one for a task has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()


class TestModule:  # pylint: disable=too-few-public-methods  # Ansible's interface
    """The tests of this file for Ansible."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        """Return the tests by name."""
        return {"terminated": terminated}
