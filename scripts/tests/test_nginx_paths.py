"""NGINX routes every public operation to its service, and to no other."""

import re

import pytest

from shared.testing.documents import documented_paths
from shared.testing.nginx_config import TEMPLATE

PATHS = dict(
    re.findall(r"^  '([a-z-]+-service)': '(/api/v1/[^']+)',$", TEMPLATE.read_text(encoding="utf-8"), re.MULTILINE)
)


@pytest.mark.parametrize("service", PATHS)
def test_every_operation_is_routed_to_its_service(service: str) -> None:
    paths = documented_paths(service)
    assert len(paths) >= 5
    routed = {path: [name for name, pattern in PATHS.items() if re.match(pattern, path)] for path in paths}
    assert routed == dict.fromkeys(paths, [service])


def test_both_public_services_have_paths() -> None:
    assert PATHS.keys() == {"account-service", "transaction-service"}
