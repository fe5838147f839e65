"""The commands of the documentation that are for Docker, on the stack of these tests."""

import pytest
from harness.composed_stack import ComposedBank
from harness.documented import differences, run

GUIDES = ("README.md", "setup.md", "docs/deployment.md")


@pytest.mark.parametrize("document", GUIDES)
def test_the_commands_work_and_print_what_is_shown(document: str, bank: ComposedBank) -> None:
    ran = run(document, "docker", bank.environment, 900)
    assert ran
    assert differences(document, ran) == []
