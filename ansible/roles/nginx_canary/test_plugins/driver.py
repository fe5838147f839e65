"""`nginx_canary_driver is gone`: whoever drives was killed, and this is a process that it left behind.

Ansible runs a task in a process of its own session, which goes on asking `until` when ansible-playbook is killed; it
would renew the lease of a rollout that nobody drives, for as long as a step may last.
"""

import multiprocessing
import os
from collections.abc import Callable


def gone(_driver: str) -> bool:
    """Tell whether the process that started this one for a task has ended."""
    parent = multiprocessing.parent_process()
    return parent is not None and parent.pid != os.getppid()


class TestModule:  # pylint: disable=too-few-public-methods  # as Ansible asks for it
    """What Ansible looks for in this file."""

    def tests(self) -> dict[str, Callable[[str], bool]]:
        """Return the tests by name."""
        return {"gone": gone}
