"""Every problem a client can get is documented, with its status, and nothing else is."""

import re

from shared.testing.paths import ROOT
from shared.http import problem_pages
from shared.http.problem_pages import ADVICE, EDGE_KINDS
from shared.http.problems import KINDS


def test_every_problem_has_a_page_and_those_of_nginx_are_the_same() -> None:
    template = (ROOT / "ansible/roles/nginx_canary/templates/banking.conf.j2").read_text(encoding="utf-8")
    found = re.findall(r"\('[\d ]+', (\d+), '([a-z-]+)', '([^']+)'", template)
    of_nginx = {code: (int(status), title) for status, code, title in found}
    kinds = {code: (kind.status, kind.title) for code, kind in {**KINDS, **EDGE_KINDS}.items()}
    assert len(of_nginx) > 5 and of_nginx.items() <= kinds.items()
    assert ADVICE.keys() == kinds.keys() == problem_pages.kinds().keys() and EDGE_KINDS.keys() <= of_nginx.keys()


def test_a_page_says_what_happened_and_what_to_do() -> None:
    for code, advice in ADVICE.items():
        markdown, page = problem_pages.as_markdown(code), problem_pages.as_html(code)
        assert advice.meaning in markdown and advice.remedy in markdown
        assert page.startswith("<!doctype html>") and code in page and "What to do" in page
