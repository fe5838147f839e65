"""Injects and repairs faults in the containers' networks, disks, clocks and processes.

Network and disk faults need root on the host of the Docker Engine. Faults that are not available there are detected by
trying, and reported.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.composed_stack import ComposedBank, now
from drills.chaos.fault_plan import ACCOUNT, KINDS, TRANSACTION, Fault
from harness.client import eventually

Heal = Callable[[], None]
# Errors of injecting or repairing a fault.
FAILURES = (AssertionError, OSError, subprocess.SubprocessError)

_DISK_BYTES = 4 * 1024**3
_DISK_OWNERS = {"postgres": 999, "nats": 0}
_FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime")
_BALLAST = "ballast"
_WRITES_PER_SECOND = 15
_FREEZE_SECONDS = 3.0
_NETEM = ("netem", "delay", "80ms", "40ms", "loss", "1%")
_TBF = ("tbf", "rate", "400kbit", "burst", "4kb", "latency", "400ms")
_LOST = "0.2"
_OVERRIDE = """\
services:
  account-service: &skewed
    environment:
      LD_PRELOAD: /opt/faketime/libfaketimeMT.so.1
      FAKETIME_TIMESTAMP_FILE: /tmp/clock
      FAKETIME_CACHE_DURATION: "1"
      # Durations are measured by the other clock, which no one can set.
      FAKETIME_DONT_FAKE_MONOTONIC: "1"
    volumes: ["{faketime}:/opt/faketime:ro"]
  transaction-service: *skewed
"""
_VOLUME = "  {name}: {{driver: local, driver_opts: {{type: none, o: bind, device: {device}}}}}\n"


def _run(*command: str) -> str:
    """Run a program; raises CalledProcessError."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout


def _works(*command: str) -> bool:
    try:
        _run(*command)
    except (subprocess.SubprocessError, OSError):
        return False
    return True


def _device(path: Path) -> str:
    """Return the device number of the disk that holds a path, also for a partition."""
    number = path.stat().st_dev
    device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve()
    whole = device.parent if (device / "partition").exists() else device
    return (whole / "dev").read_text(encoding="utf-8").strip()


class FaultyEnvironment:
    """The configuration of a stack whose disks can be filled and whose clocks can be changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Why a kind of fault is not available.
        self.missing: dict[str, str] = {}
        self.disks: dict[str, Path] = {}
        self._skews = _FAKETIME.is_dir() or _works("scripts/local/ensure_packages.sh", "faketime")
        if not self._skews:
            self.missing["clock"] = "libfaketime (package faketime) is not there"

    @contextmanager
    def disks_mounted(self) -> Iterator[None]:
        """Mount small dedicated disks for PostgreSQL and NATS while the block runs."""
        try:
            for name, owner in _DISK_OWNERS.items():
                self._mount(name, owner)
        except (subprocess.SubprocessError, OSError) as error:
            self.missing["full disk"] = f"no disk can be made of a file: {error}"
            self._unmount()
        try:
            yield
        finally:
            self._unmount()

    def _mount(self, name: str, owner: int) -> None:
        image, folder = self._folder / f"{name}.img", self._folder / f"{name}-disk"
        folder.mkdir()
        # A journal on top of a journal, or unallocated blocks of the file, would make each fsync several times slower
        # than on the disk itself.
        _run("dd", "if=/dev/zero", f"of={image}", "bs=16M", f"count={_DISK_BYTES >> 24}", "status=none")
        _run("mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", "-E", "nodiscard", str(image))
        _run("mount", "-o", "loop", str(image), str(folder))
        self.disks[name] = folder
        data = folder / "data"
        data.mkdir(mode=0o700)
        os.chown(data, owner, owner)

    def _unmount(self) -> None:
        for folder in self.disks.values():
            _run("umount", str(folder))
        self.disks.clear()

    def compose_file(self) -> str:
        """Return the path of the override of docker-compose.yml."""
        content = _OVERRIDE.format(faketime=_FAKETIME) if self._skews else "services: {}\n"
        if self.disks:
            content += "volumes:\n"
            content += "".join(_VOLUME.format(name=name, device=disk / "data") for name, disk in self.disks.items())
        file = self._folder / "faults.yml"
        file.write_text(content, encoding="utf-8")
        return str(file)


class FaultInjector:
    """Injects faults into a running stack; `stage` is its environment, if it was started for faults."""

    def __init__(self, bank: ComposedBank, stage: FaultyEnvironment | None = None) -> None:
        self.bank = bank
        self._disks = stage.disks if stage else {}
        self.missing = dict(stage.missing) if stage else {}
        if stage is None:
            self.missing["clock"] = self.missing["full disk"] = "the stack was not started for it"
        services = (ACCOUNT, TRANSACTION, "postgres", "nats", "nginx")
        # Container ids do not change: containers are killed and started, never replaced.
        self._containers = {service: sorted(bank.containers(service)) for service in services}
        self._causes: dict[str, Callable[[Fault], Heal]] = {
            "kill": self._kill,
            "restart": self._restart,
            "freeze": self._freeze,
            "cut": lambda fault: self._drop(fault, ("INPUT", "OUTPUT"), ()),
            "deaf": lambda fault: self._drop(fault, ("INPUT",), ()),
            "lossy": lambda fault: self._drop(
                fault, ("INPUT", "OUTPUT"), ("-m", "statistic", "--mode", "random", "--probability", _LOST)
            ),
            "slow network": self._slow_network,
            "slow disk": self._slow_disk,
            "clock": self._skew,
            "full disk": self._fill_disk,
        }
        self._shaping = _NETEM if _works("unshare", "-n", "tc", "qdisc", "add", "dev", "lo", "root", *_NETEM) else _TBF
        self.notes = (
            []
            if self._shaping is _NETEM
            else ["slow network: this kernel has no netem, so a bandwidth of 400 kbit/s stands for delay"]
        )
        # How often each component has logged that its disk was full.
        self.said_full: Counter[str] = Counter()
        self._look_around()

    @property
    def kinds(self) -> list[str]:
        """The kinds of faults that are available on this machine."""
        return [kind for kind in KINDS if kind not in self.missing]

    def _look_around(self) -> None:
        """Detect the kinds that are not available."""
        if os.geteuid() != 0:
            for kind in ("cut", "deaf", "lossy", "slow network", "slow disk"):
                self.missing[kind] = "it takes root on the engine's host"
            return
        container = self._containers["nats"][0]
        if not self._in_network_of(container, "iptables", "-S"):
            self.missing |= dict.fromkeys(("cut", "deaf", "lossy"), "iptables does not work in a container's network")
        elif not _works(
            "unshare",
            "-n",
            "iptables",
            "-A",
            "INPUT",
            "-m",
            "statistic",
            "--mode",
            "random",
            "--probability",
            _LOST,
            "-j",
            "DROP",
        ):
            self.missing["lossy"] = "iptables has no match `statistic`"
        if not _works("unshare", "-n", "tc", "qdisc", "add", "dev", "lo", "root", *self._shaping):
            self.missing["slow network"] = "tc has neither netem nor tbf"
        if self._throttle(container) is None:
            self.missing["slow disk"] = "the engine's cgroups do not limit writes"

    def cause(self, fault: Fault) -> Heal:
        """Inject a fault and return its repair; repairing a fault that has ended does nothing."""
        return self._causes[fault.kind](fault)

    def all_run(self) -> bool:
        """Return whether every target container is running."""
        everything = [container for containers in self._containers.values() for container in containers]
        return set(self.bank.inspect("{{.State.Running}}", *everything)) == {"true"}

    def _pick(self, service: str, number: int) -> str:
        found = self._containers[service]
        return found[number % len(found)]

    def _target(self, fault: Fault) -> str:
        return self._pick(fault.target, fault.replica)

    def _pid(self, container: str) -> int:
        """Return the process id of a container's first process, 0 if it is not running."""
        return int(self.bank.inspect("{{.State.Pid}}", container)[0])

    def _kill(self, fault: Fault) -> Heal:
        container = self._target(fault)
        self.bank.docker("kill", container)
        return lambda: self._start(container)

    def _start(self, container: str) -> None:
        self.bank.docker("start", container)

    def _restart(self, fault: Fault) -> Heal:
        self.bank.docker("restart", "--time", "20", self._target(fault))
        return lambda: None

    def _freeze(self, fault: Fault) -> Heal:
        container = self._target(fault)
        # Not while a process waits for the disk: older cgroups cannot freeze it.
        eventually(lambda: self._frozen(container), _FREEZE_SECONDS, every=0.2)
        return lambda: self._thaw(container)

    def _frozen(self, container: str) -> bool:
        """Try to freeze a container; return whether it succeeded."""
        try:
            self.bank.docker("pause", container)
        except AssertionError:
            return False
        return True

    def _thaw(self, container: str) -> None:
        if self.bank.inspect("{{.State.Paused}}", container) == ["true"]:
            self.bank.docker("unpause", container)

    def _in_network_of(self, container: str, *command: str) -> bool:
        """Run a program in a container's network; return whether it succeeded (the container must be running)."""
        pid = self._pid(container)
        return pid != 0 and _works("nsenter", "--target", str(pid), "--net", *command)

    def _drop(self, fault: Fault, chains: tuple[str, ...], match: tuple[str, ...]) -> Heal:
        """Drop packets from the peer (INPUT) or to it (OUTPUT), in the target's network."""
        container = self._target(fault)
        template = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}"
        addresses = self.bank.inspect(template, self._pick(fault.peer, fault.peer_replica))[0].split()
        for address in addresses:
            for chain in chains:
                side = "-s" if chain == "INPUT" else "-d"
                self._in_network_of(container, "iptables", "-A", chain, side, address, *match, "-j", "DROP")
        return lambda: self._flush(container)

    def _flush(self, container: str) -> None:
        # Docker's own rules in there are in another table.
        self._in_network_of(container, "iptables", "-F")

    def _slow_network(self, fault: Fault) -> Heal:
        container = self._target(fault)
        pid = self._pid(container)
        devices = [
            line.split(": ")[1].split("@")[0]
            for line in _run("nsenter", "--target", str(pid), "--net", "ip", "-o", "link").splitlines()
        ]
        outside = [device for device in devices if device != "lo"]
        for device in outside:
            self._in_network_of(container, "tc", "qdisc", "add", "dev", device, "root", *self._shaping)
        return lambda: self._unshape(container, outside)

    def _unshape(self, container: str, devices: list[str]) -> None:
        for device in devices:
            self._in_network_of(container, "tc", "qdisc", "del", "dev", device, "root")

    def _throttle(self, container: str) -> tuple[Path, str] | None:
        """Return the file that limits a container's writes per second, and the prefix of the number in it."""
        lines = Path(f"/proc/{self._pid(container)}/cgroup").read_text(encoding="utf-8").splitlines()
        groups = {name: path for line in lines for _, names, path in [line.split(":", 2)] for name in names.split(",")}
        old = Path(f"/sys/fs/cgroup/blkio{groups.get('blkio', '/-')}/blkio.throttle.write_iops_device")
        new = Path(f"/sys/fs/cgroup{groups.get('', '/-')}/io.max")
        if old.exists():
            return old, ""
        return (new, "wiops=") if new.exists() else None

    def _slow_disk(self, fault: Fault) -> Heal:
        """Limit this container's writes per second to the disk of the data volume."""
        found = self._throttle(self._target(fault))
        assert found is not None
        file, prefix = found
        source = self.bank.inspect(
            '{{range .Mounts}}{{if eq .Type "volume"}}{{.Source}}{{end}}{{end}}', self._target(fault)
        )[0]
        device = _device(self._disks.get(fault.target, Path(source)))
        file.write_text(f"{device} {prefix}{_WRITES_PER_SECOND}", encoding="utf-8")
        return lambda: self._full_speed(file, f"{device} {prefix}{'max' if prefix else 0}")

    def _full_speed(self, file: Path, line: str) -> None:
        # The limit was removed with its container.
        if file.exists():
            file.write_text(line, encoding="utf-8")

    def _skew(self, fault: Fault) -> Heal:
        """Set the clock of one replica; libfaketime reads the file every second."""
        container = self._target(fault)
        self._set_clock(container, f"{fault.skew:+d}")
        return lambda: self._set_clock(container, "+0")

    def _set_clock(self, container: str, offset: str) -> None:
        # A restarted container has a new /tmp, and therefore the correct time.
        if self._pid(container):
            self.bank.docker("exec", "--env", "LD_PRELOAD=", container, "sh", "-c", f"echo {offset} >/tmp/clock")

    def _fill_disk(self, fault: Fault) -> Heal:
        """Fill the disk of PostgreSQL or NATS completely."""
        disk = self._disks[fault.target]
        ballast = disk / _BALLAST
        free = os.statvfs(disk)
        _run("fallocate", "--length", str(max(free.f_bavail * free.f_frsize - 16 * 1024**2, 4096)), str(ballast))
        # The rest: the overhead of the file system is not known in advance.
        with ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(65536))
            except OSError:
                pass
        began = now()
        return lambda: self._empty_disk(fault, ballast, began)

    def _empty_disk(self, fault: Fault, ballast: Path, began: str) -> None:
        lines = self.bank.logs(self._target(fault), "--since", began).lower().count("no space left")
        self.said_full[fault.target] += lines
        ballast.unlink(missing_ok=True)
        # Docker's restart backoff grows with every exit; an operator who freed the disk restarts the container at once.
        self._start(self._target(fault))
