"""Check that Docker can create the networks of the stack: `python3 address_pools.py PROJECT`.

Docker takes the subnet of each network from its address pools; the default pools have 31 subnets, and a stack needs
nine. Exits 1 with a message if too few are free. Stand-alone: a deployment runs it on the host before anything else.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

# The networks of docker-compose.yml.
NETWORKS = 9
# Docker's pools unless daemon.json has others: https://docs.docker.com/engine/network/#subnet-allocation
DEFAULT_POOLS = [{"Base": f"172.{second}.0.0/16", "Size": 16} for second in range(17, 32)]
DEFAULT_POOLS += [{"Base": "192.168.0.0/16", "Size": 20}]
# What the Ansible role docker configures for a new engine.
RECOMMENDED = {"default-address-pools": [{"base": "172.17.0.0/16", "size": 24}]}


def routes(table: str) -> Iterator[IPv4Network]:
    """Yield the networks of /proc/net/route, without the default route."""
    for line in table.splitlines()[1:]:
        columns = line.split()
        # Hexadecimal, in the byte order of the machine.
        destination, mask = (int.from_bytes(bytes.fromhex(columns[n]), sys.byteorder) for n in (1, 7))
        if mask:
            yield IPv4Network((IPv4Address(destination), str(IPv4Address(mask))), strict=False)


def subnets(networks: Iterable[dict[str, Any]]) -> Iterator[IPv4Network]:
    """Yield the IPv4 subnets of Docker's networks (`docker network inspect`)."""
    for network in networks:
        for configuration in network["IPAM"]["Config"] or ():
            if ":" not in (subnet := configuration.get("Subnet", ":")):
                yield IPv4Network(subnet, strict=False)


def count_free(pools: Sequence[dict[str, Any]], used: Sequence[IPv4Network]) -> int:
    """Return how many subnets of the IPv4 pools overlap no used network.

    It does not enumerate them, because a pool may have a million subnets.
    """
    taken = [(int(network.network_address), int(network.broadcast_address)) for network in used]
    free = 0
    for pool in pools:
        if ":" in pool["Base"]:
            continue
        base = IPv4Network(pool["Base"])
        first, last = int(base.network_address), int(base.broadcast_address)
        size = 2 ** (32 - max(pool["Size"], base.prefixlen))
        subnet = 0
        for low, high in sorted(taken):
            if low <= last and high >= first:
                free += max(0, (low - first) // size - subnet)
                subnet = max(subnet, (min(high, last) - first) // size + 1)
        free += base.num_addresses // size - subnet
        # Pools may overlap.
        taken.append((first, last))
    return free


def _docker(*arguments: str, check: bool = True) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check).stdout  # nosec B607


def main() -> int:
    """Compare the free subnets with those that the stack still needs."""
    project = sys.argv[1]
    # Exits with 1 if another stack has just removed a network; the others are in the output.
    names = _docker("network", "ls", "--quiet").split()
    networks = json.loads(_docker("network", "inspect", *names, check=False))
    projects = [(network["Labels"] or {}).get("com.docker.compose.project") for network in networks]
    pools = json.loads(_docker("info", "--format", "{{json .DefaultAddressPools}}")) or DEFAULT_POOLS
    table = Path("/proc/net/route").read_text(encoding="ascii")
    free = count_free(pools, [*subnets(networks), *routes(table)])
    needed = max(0, NETWORKS - projects.count(project))
    if free >= needed:
        return 0
    print(
        f"Docker has free subnets for {free} more networks, and the stack needs {needed}. Nothing was changed. Remove"
        " unused networks (docker network prune), or add smaller subnets to /etc/docker/daemon.json, for example"
        f" {json.dumps(RECOMMENDED)}, and restart Docker.",
        file=sys.stderr,
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
