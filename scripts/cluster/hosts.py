"""The hosts of a cluster: how many it may have, and the variables of docker-compose.cluster.yml for each."""

from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

MAX_HOSTS = 5
# Why a number of hosts cannot be a cluster: etcd, Patroni and NATS decide by majority.
_UNSUITABLE = {
    1: "one host has no other to fail over to; start the bank there with make up",
    2: "after the loss of one, the other is no majority and accepts no writes",
    4: "it survives the loss of one host, as 3 do, and has one more that can fail",
}


def check(hosts: Sequence[str]) -> None:
    """Raise ValueError unless these are the addresses of 3 or 5 hosts."""
    for host in hosts:
        try:
            IPv4Address(host)
        except ValueError as error:
            raise ValueError(f"{host} is not an IPv4 address") from error
    if len(set(hosts)) < len(hosts):
        raise ValueError(f"an address is listed twice: {' '.join(hosts)}")
    if len(hosts) not in (3, MAX_HOSTS):
        reason = _UNSUITABLE.get(len(hosts), "more than 5 make every write slower and none safer")
        raise ValueError(f"a cluster of {len(hosts)}: {reason}. Use 3 or 5 hosts")


def name(number: int) -> str:
    """Return the name of a host: that of its etcd, Patroni and NATS, and of its certificate. The first is number 1."""
    return f"host-{number}"


def variables(hosts: Sequence[str], number: int, folder: Path) -> dict[str, str]:
    """Return the variables of a host for the addresses of all hosts; `folder` has its certificate and key."""
    names = [name(one) for one in range(1, len(hosts) + 1)]
    return {
        "CLUSTER_NAME": name(number),
        "CLUSTER_ADDRESS": hosts[number - 1],
        "CLUSTER_DIR": str(folder),
        "CLUSTER_ETCD_PEERS": ",".join(f"{one}=https://{host}:2380" for one, host in zip(names, hosts, strict=True)),
        "CLUSTER_ETCD_CLIENTS": ",".join(f"{host}:2379" for host in hosts),
        "CLUSTER_POSTGRES_HOSTS": ",".join(hosts),
        # NATS' configuration format.
        "CLUSTER_NATS_ROUTES": f"[{', '.join(f'tls://{host}:6222' for host in hosts)}]",
    }
