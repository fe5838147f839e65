"""Networks need free subnets: how many Docker's pools still have, and what a deployment says if they are too few."""

import json
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from scripts.stack import address_pools
from shared.testing.paths import ROOT

_ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
vpn0\t000012AC\t00000000\t0001\t0\t0\t0\t0000FEFF\t0\t0\t0
"""
# Answers as Docker does on a machine with three stacks; the third argument of `info` is the template.
_DOCKER = """#!/bin/sh
case "$1 $2" in
    "network ls") echo some ids ;;
    # One network was removed in between.
    "network inspect") cat "$(dirname "$0")/networks.json"; exit 1 ;;
    info*) cat "$(dirname "$0")/pools.json" ;;
esac
"""


def test_the_stack_needs_as_many_networks_as_compose_has() -> None:
    networks = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["networks"]
    assert address_pools.NETWORKS == len(networks)


def test_the_role_configures_the_recommended_pools() -> None:
    defaults = yaml.safe_load((ROOT / "ansible/roles/docker/defaults/main.yml").read_text("utf-8"))
    assert defaults["docker_new_engine_options"] == address_pools.RECOMMENDED


@pytest.mark.skipif(sys.byteorder != "little", reason="the table is that of a little-endian machine")
def test_routes_of_the_host_are_read_without_the_default_route() -> None:
    assert list(address_pools.routes(_ROUTES)) == [IPv4Network("172.18.0.0/15")]


def test_only_ipv4_subnets_of_networks_count() -> None:
    networks = [
        {"IPAM": {"Config": None}},
        {"IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}, {}]}},
    ]
    assert list(address_pools.subnets(networks)) == [IPv4Network("172.17.0.0/16")]


@pytest.mark.parametrize(
    "pools, used, free",
    [
        (address_pools.DEFAULT_POOLS, [], 31),
        (address_pools.DEFAULT_POOLS, ["172.17.0.0/16", "192.168.16.0/20"], 29),
        # A route of a VPN covers several subnets.
        (address_pools.DEFAULT_POOLS, ["172.16.0.0/12"], 16),
        ([{"Base": "172.17.0.0/16", "Size": 24}], ["172.17.0.0/24"], 255),
        ([{"Base": "fd00::/48", "Size": 64}, {"Base": "10.0.0.0/24", "Size": 24}], [], 1),
        # The same pool twice has its subnets once.
        ([{"Base": "10.0.0.0/23", "Size": 24}, {"Base": "10.0.0.0/24", "Size": 24}], [], 2),
        ([{"Base": "10.0.0.0/24", "Size": 24}, {"Base": "10.0.0.0/23", "Size": 24}], [], 2),
        # A million subnets, of which networks take some in part, several times or next to each other.
        ([{"Base": "10.0.0.0/8", "Size": 28}], [], 2**20),
        ([{"Base": "10.0.0.0/8", "Size": 28}], ["10.0.0.0/9", "10.0.0.0/16", "10.128.0.8/29", "9.0.0.0/8"], 2**19 - 1),
        ([{"Base": "10.0.0.0/8", "Size": 28}], ["0.0.0.0/1"], 0),
        ([{"Base": "10.0.0.0/22", "Size": 24}], ["10.0.2.0/24", "10.0.1.0/25", "10.0.1.128/25"], 2),
    ],
)
def test_free_subnets_overlap_nothing(pools: list[dict[str, object]], used: list[str], free: int) -> None:
    assert address_pools.count_free(pools, [IPv4Network(network) for network in used]) == free


def _run(folder: Path, taken: int, own: int) -> subprocess.CompletedProcess[str]:
    """Check a machine with a pool of 32 subnets, of which `taken` are used, `own` by the project itself."""
    (folder / "docker").write_text(_DOCKER, encoding="utf-8")
    (folder / "docker").chmod(0o755)
    subnets = [f"198.18.{number}.0/24" for number in range(taken)]
    networks = [
        {
            "IPAM": {"Config": [{"Subnet": subnet}]},
            "Labels": {"com.docker.compose.project": "bank" if number < own else "other"},
        }
        for number, subnet in enumerate(subnets)
    ]
    (folder / "networks.json").write_text(json.dumps(networks), encoding="utf-8")
    (folder / "pools.json").write_text(json.dumps([{"Base": "198.18.0.0/19", "Size": 24}]), encoding="utf-8")
    command = [sys.executable, "-m", "scripts.stack.address_pools", "bank"]
    environment = {"PATH": f"{folder}:/usr/bin:/bin"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("taken, own, code", [(0, 0, 0), (23, 0, 0), (24, 0, 1), (32, 9, 0), (32, 8, 1)])
def test_too_few_subnets_are_reported_before_anything_changes(tmp_path: Path, taken: int, own: int, code: int) -> None:
    done = _run(tmp_path, taken, own)
    assert done.returncode == code, done.stderr
    if code:
        assert f"free subnets for {32 - taken} more networks, and the stack needs {9 - own}." in done.stderr
        assert "docker network prune" in done.stderr and '"size": 24' in done.stderr
    else:
        assert done.stderr == ""
