"""Load balancers in front of NGINX: `make up` and Ansible accept the same addresses."""

import importlib.util

import pytest

from scripts.stack import stack_files
from shared.testing.paths import ROOT

_PLUGIN = ROOT / "ansible/roles/nginx_canary/test_plugins/addresses.py"


def accepted_by_ansible(value: str) -> bool:
    """Return whether the role accepts NGINX_TRUSTED_PROXIES."""
    spec = importlib.util.spec_from_file_location("addresses", _PLUGIN)
    assert spec and spec.loader
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    return bool(plugin.TestModule().tests()["all_proxies"](value.split()))


@pytest.mark.parametrize("value", ["", "10.0.0.1", "10.0.0.0/8 192.0.2.7", "2001:db8::/32 ::1"])
def test_addresses_and_networks_are_accepted(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGINX_TRUSTED_PROXIES", value)
    assert stack_files.trusted_proxies() == value.split() and accepted_by_ansible(value)
    text = stack_files.nginx_configuration(tls=False)
    assert [f"set_real_ip_from {one};" in text for one in value.split()] == [True] * len(value.split())


@pytest.mark.parametrize(
    "value", ["load-balancer", "10.0.0.1;", "10.0.0.0/33", "10.0.0.1/8", "0.0.0.0/0", "10.0.0.1 ::/0", "1,2", "unix:"]
)
def test_names_wildcards_and_mistakes_are_refused(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGINX_TRUSTED_PROXIES", value)
    with pytest.raises(ValueError, match="NGINX_TRUSTED_PROXIES"):
        stack_files.trusted_proxies()
    assert not accepted_by_ansible(value)


@pytest.mark.parametrize(("proxies", "protocol"), [("", "1"), ("10.0.0.1", "yes")])
def test_the_proxy_protocol_needs_a_proxy(proxies: str, protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NGINX_TRUSTED_PROXIES", proxies)
    monkeypatch.setenv("NGINX_PROXY_PROTOCOL", protocol)
    with pytest.raises(ValueError, match="NGINX_PROXY_PROTOCOL"):
        stack_files.trusted_proxies()
