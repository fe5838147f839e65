"""`list is all_proxies`: IP addresses and networks that may be trusted as proxies."""

import ipaddress
from collections.abc import Callable, Iterable


def is_proxy(value: object) -> bool:
    """Return whether a value is an address or network, and not the network of all addresses."""
    try:
        return ipaddress.ip_network(str(value)).prefixlen > 0
    except ValueError:
        return False


class TestModule:  # pylint: disable=too-few-public-methods  # Ansible's interface
    """The tests of this file for Ansible."""

    def tests(self) -> dict[str, Callable[[Iterable[object]], bool]]:
        """Return the tests by name."""
        return {"all_proxies": lambda values: all(map(is_proxy, values))}
