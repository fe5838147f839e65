"""Every problem a client can get is documented, with its status, and nothing else is."""

import re

from scripts.embedded import ROOT
from shared.problems import KINDS


def test_the_table_of_problems_is_complete() -> None:
    template = (ROOT / "ansible/roles/nginx_canary/templates/banking.conf.j2").read_text(encoding="utf-8")
    of_nginx = {code: int(status) for status, code in re.findall(r"\('[\d ]+', (\d+), '([a-z-]+)'", template)}
    of_services = {code: kind.status for code, kind in KINDS.items()}
    assert len(of_nginx) > 5

    table = (ROOT / "docs/problems.md").read_text(encoding="utf-8")
    documented = {code: int(status) for code, status in re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", table, re.MULTILINE)}

    assert documented == of_nginx | of_services
