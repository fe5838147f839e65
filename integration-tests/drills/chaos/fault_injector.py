"""Injects and repairs faults in the containers' networks, disks, clocks and processes.

Network and disk faults require root on the host of Docker Engine. Kinds of faults that do not work on this machine are
detected and reported.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from harness.composed_stack import ComposedBank, now
from drills.chaos.fault_environment import FaultEnvironment, program_works, run_program
from drills.chaos.fault_plan import ACCOUNT, KINDS, TRANSACTION, Fault
from harness.client import eventually

Repair = Callable[[], None]
# Errors that injecting or repairing a fault may raise.
INJECTION_ERRORS = (AssertionError, OSError, subprocess.SubprocessError)

_FILLER_FILE = "filler"
_WRITES_PER_SECOND = 15
_FREEZE_TIMEOUT_SECONDS = 3.0
_NETEM = ("netem", "delay", "80ms", "40ms", "loss", "1%")
_TBF = ("tbf", "rate", "400kbit", "burst", "4kb", "latency", "400ms")
_ADD_QDISC = ("tc", "qdisc", "add", "dev")
_RANDOM_MATCH = ("-m", "statistic", "--mode", "random", "--probability", "0.2")
_PACKET_FAULTS = ("partition", "one-way-partition", "packet-loss")


def _device_number(path: Path) -> str:
    """Return the device number of the disk that holds a path, also for a partition."""
    number = path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    whole = device.parent if (device / "partition").exists() else device
    return (whole / "dev").read_text(encoding="utf-8").strip()


class FaultInjector:
    """Injects faults into a running stack; without a FaultEnvironment, clock skew and full disks are unavailable."""

    def __init__(self, bank: ComposedBank, environment: FaultEnvironment | None = None) -> None:
        self.bank = bank
        self._disks = environment.disks if environment else {}
        self.unavailable = dict(environment.unavailable) if environment else {}
        if environment is None:
            self.unavailable["clock-skew"] = self.unavailable["full-disk"] = "the stack has no fault environment"
        services = (ACCOUNT, TRANSACTION, "postgres", "nats", "nginx")
        # Container ids do not change: containers are killed and started, never replaced.
        self._containers = {service: sorted(bank.containers(service)) for service in services}
        self._injectors: dict[str, Callable[[Fault], Repair]] = {
            "kill": self._kill,
            "restart": self._restart,
            "freeze": self._freeze,
            "partition": lambda fault: self._drop_packets(fault, ("INPUT", "OUTPUT")),
            "one-way-partition": lambda fault: self._drop_packets(fault, ("INPUT",)),
            "packet-loss": lambda fault: self._drop_packets(fault, ("INPUT", "OUTPUT"), _RANDOM_MATCH),
            "slow-network": self._slow_network,
            "slow-disk": self._slow_disk,
            "clock-skew": self._skew_clock,
            "full-disk": self._fill_disk,
        }
        self._qdisc = _NETEM if program_works("unshare", "-n", *_ADD_QDISC, "lo", "root", *_NETEM) else _TBF
        self.notes = (
            []
            if self._qdisc is _NETEM
            else ["slow-network: this kernel has no netem, so bandwidth is limited to 400 kbit/s instead of a delay"]
        )
        # Number of log lines about a full disk, by service.
        self.disk_full_errors: Counter[str] = Counter()
        self._detect_unavailable_kinds()

    @property
    def kinds(self) -> list[str]:
        """The kinds of faults that are available on this machine."""
        return [kind for kind in KINDS if kind not in self.unavailable]

    def _detect_unavailable_kinds(self) -> None:
        """Detect the kinds that are not available."""
        if os.geteuid() != 0:
            kinds = (*_PACKET_FAULTS, "slow-network", "slow-disk")
            self.unavailable |= dict.fromkeys(kinds, "requires root on the host of Docker Engine")
            return
        container = self._containers["nats"][0]
        if not self._run_in_network(container, "iptables", "-S"):
            self.unavailable |= dict.fromkeys(_PACKET_FAULTS, "iptables does not work in a container's network")
        elif not program_works("unshare", "-n", "iptables", "-A", "INPUT", *_RANDOM_MATCH, "-j", "DROP"):
            self.unavailable["packet-loss"] = "iptables has no match `statistic`"
        if not program_works("unshare", "-n", *_ADD_QDISC, "lo", "root", *self._qdisc):
            self.unavailable["slow-network"] = "tc has neither netem nor tbf"
        if self._write_limit_file(container) is None:
            self.unavailable["slow-disk"] = "the cgroups of this machine do not limit writes"

    def inject(self, fault: Fault) -> Repair:
        """Inject a fault and return its repair; repairing a fault that has ended does nothing."""
        return self._injectors[fault.kind](fault)

    def all_containers_run(self) -> bool:
        """Return whether every target container is running."""
        containers = [container for replicas in self._containers.values() for container in replicas]
        return set(self.bank.inspect("{{.State.Running}}", *containers)) == {"true"}

    def _container(self, service: str, replica: int) -> str:
        replicas = self._containers[service]
        return replicas[replica % len(replicas)]

    def _target_container(self, fault: Fault) -> str:
        return self._container(fault.target, fault.replica)

    def _pid(self, container: str) -> int:
        """Return the process id of a container's first process, 0 if it is not running."""
        return int(self.bank.inspect("{{.State.Pid}}", container)[0])

    def _kill(self, fault: Fault) -> Repair:
        container = self._target_container(fault)
        self.bank.docker("kill", container)
        return lambda: self._start(container)

    def _start(self, container: str) -> None:
        self.bank.docker("start", container)

    def _restart(self, fault: Fault) -> Repair:
        self.bank.docker("restart", "--time", "20", self._target_container(fault))
        return lambda: None

    def _freeze(self, fault: Fault) -> Repair:
        container = self._target_container(fault)
        # cgroup v1 cannot freeze a process that waits for the disk, so this is retried.
        eventually(lambda: self._try_freeze(container), _FREEZE_TIMEOUT_SECONDS, every=0.2)
        return lambda: self._thaw(container)

    def _try_freeze(self, container: str) -> bool:
        """Try to freeze a container; return whether it succeeded."""
        try:
            self.bank.docker("pause", container)
        except AssertionError:
            return False
        return True

    def _thaw(self, container: str) -> None:
        if self.bank.inspect("{{.State.Paused}}", container) == ["true"]:
            self.bank.docker("unpause", container)

    def _run_in_network(self, container: str, *command: str) -> bool:
        """Run a program in a container's network; return whether it succeeded (the container must be running)."""
        pid = self._pid(container)
        return pid != 0 and program_works("nsenter", "--target", str(pid), "--net", *command)

    def _drop_packets(self, fault: Fault, chains: tuple[str, ...], match: tuple[str, ...] = ()) -> Repair:
        """Drop the target's packets from the peer (INPUT) or to it (OUTPUT), all or those that match."""
        container = self._target_container(fault)
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        addresses = self.bank.inspect(template, self._container(fault.peer, fault.peer_replica))[0].split()
        for address in addresses:
            for chain in chains:
                option = "-s" if chain == "INPUT" else "-d"
                self._run_in_network(container, "iptables", "-A", chain, option, address, *match, "-j", "DROP")
        return lambda: self._remove_rules(container)

    def _remove_rules(self, container: str) -> None:
        # Docker's own rules are in another table.
        self._run_in_network(container, "iptables", "-F")

    def _slow_network(self, fault: Fault) -> Repair:
        container = self._target_container(fault)
        pid = self._pid(container)
        links = run_program("nsenter", "--target", str(pid), "--net", "ip", "-o", "link").splitlines()
        devices = [name for name in (link.split(": ")[1].split("@")[0] for link in links) if name != "lo"]
        for device in devices:
            self._run_in_network(container, *_ADD_QDISC, device, "root", *self._qdisc)
        return lambda: self._remove_qdisc(container, devices)

    def _remove_qdisc(self, container: str, devices: list[str]) -> None:
        for device in devices:
            self._run_in_network(container, "tc", "qdisc", "del", "dev", device, "root")

    def _write_limit_file(self, container: str) -> tuple[Path, str] | None:
        """Return the cgroup file that limits a container's writes per second, and the prefix of the number in it."""
        lines = Path(f"/proc/{self._pid(container)}/cgroup").read_text(encoding="utf-8").splitlines()
        groups = {name: path for line in lines for _, names, path in [line.split(":", 2)] for name in names.split(",")}
        v1 = Path(f"/sys/fs/cgroup/blkio{groups.get('blkio', '/-')}/blkio.throttle.write_iops_device")
        v2 = Path(f"/sys/fs/cgroup{groups.get('', '/-')}/io.max")
        if v1.exists():
            return v1, ""
        return (v2, "wiops=") if v2.exists() else None

    def _slow_disk(self, fault: Fault) -> Repair:
        """Limit the container's writes per second to the disk of its data volume."""
        limit = self._write_limit_file(self._target_container(fault))
        assert limit is not None
        file, prefix = limit
        source = self.bank.inspect(
            '{{range .Mounts}}{{if eq .Type "volume"}}{{.Source}}{{end}}{{end}}', self._target_container(fault)
        )[0]
        device = _device_number(self._disks.get(fault.target, Path(source)))
        file.write_text(f"{device} {prefix}{_WRITES_PER_SECOND}", encoding="utf-8")
        return lambda: self._remove_write_limit(file, f"{device} {prefix}{'max' if prefix else 0}")

    def _remove_write_limit(self, file: Path, line: str) -> None:
        # A stopped container has no cgroup.
        if file.exists():
            file.write_text(line, encoding="utf-8")

    def _skew_clock(self, fault: Fault) -> Repair:
        """Skew the clock of one replica; libfaketime reads the file every second."""
        container = self._target_container(fault)
        self._set_clock_offset(container, f"{fault.skew:+d}")
        return lambda: self._set_clock_offset(container, "+0")

    def _set_clock_offset(self, container: str, offset: str) -> None:
        # A restarted container has a new /tmp, so its clock is correct.
        if self._pid(container):
            self.bank.docker("exec", "--env", "LD_PRELOAD=", container, "sh", "-c", f"echo {offset} >/tmp/clock")

    def _fill_disk(self, fault: Fault) -> Repair:
        """Fill the disk of PostgreSQL or NATS completely."""
        disk = self._disks[fault.target]
        filler = disk / _FILLER_FILE
        free = os.statvfs(disk)
        run_program("fallocate", "--length", str(max(free.f_bavail * free.f_frsize - 16 * 1024**2, 4096)), str(filler))
        # Then write until the disk is full, because the overhead of the file system is not known in advance.
        with filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                pass
        started = now()
        return lambda: self._free_disk(fault, filler, started)

    def _free_disk(self, fault: Fault, filler: Path, started: str) -> None:
        lines = self.bank.logs(self._target_container(fault), "--since", started).lower().count("no space left")
        self.disk_full_errors[fault.target] += lines
        filler.unlink(missing_ok=True)
        # Docker's restart delay grows with every exit; an operator would start the container after freeing the disk.
        self._start(self._target_container(fault))
