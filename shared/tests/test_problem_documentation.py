"""All problem types are documented with their status, and no others."""

import re

from shared.testing.paths import ROOT
from shared.http import problem_pages
from shared.http.problem_pages import ADVICE, NGINX_PROBLEM_TYPES
from shared.http.problems import PROBLEM_TYPES


def test_every_problem_type_has_a_page_and_matches_nginx() -> None:
    template = (ROOT / "ansible/roles/nginx_canary/templates/banking.conf.j2").read_text(encoding="utf-8")
    found = re.findall(r"\('[\d ]+', (\d+), '([a-z-]+)', '([^']+)'", template)
    of_nginx = {code: (int(status), title) for status, code, title in found}
    kinds = {code: (kind.status, kind.title) for code, kind in {**PROBLEM_TYPES, **NGINX_PROBLEM_TYPES}.items()}
    assert len(of_nginx) > 5 and of_nginx.items() <= kinds.items()
    assert (
        ADVICE.keys() == kinds.keys() == problem_pages.problem_types().keys()
        and NGINX_PROBLEM_TYPES.keys() <= of_nginx.keys()
    )


def test_page_explains_what_happened_and_what_to_do() -> None:
    for code, advice in ADVICE.items():
        markdown, page = problem_pages.as_markdown(code), problem_pages.as_html(code)
        assert advice.meaning in markdown and advice.remedy in markdown
        assert page.startswith("<!doctype html>") and code in page and "What to do" in page
