"""A faulty release: the images that stable runs with one more layer, or the same images with other settings."""

import re
from contextlib import suppress
from dataclasses import dataclass

from scripts.faults.faulty import SETTINGS
from scripts.faults.stack import SERVICES, Stack, StackError
from scripts.stack import revisions

_FOLDER = "scripts/faults"


@dataclass(frozen=True, slots=True)
class Release:
    """Images, and revisions of the configuration, by service."""

    version: str
    images: dict[str, str]
    revisions: dict[str, str]


def running(stack: Stack) -> Release:
    """Return what stable runs, under another version. Raises StackError without a running stack."""
    return Release("same", stack.images(), stack.revisions())


def version(fault: str) -> str:
    """Return the version of a faulty release, as clients and operators see it."""
    return f"broken-{fault}"


def build(stack: Stack, fault: str) -> Release:
    """Build a faulty release. Raises StackError."""
    if fault in SETTINGS:
        return Release(version(fault), stack.images(), _configure(stack, SETTINGS[fault]))
    built = {}
    for service, image in stack.images().items():
        built[service] = f"{_prefix(stack)}/{service}:{fault}"
        arguments = {"RELEASE": image, "FAULT": fault, "VERSION": version(fault)}
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        stack.docker("build", "--quiet", *words, "--tag", built[service], _FOLDER)
    return Release(version(fault), built, stack.revisions())


def _configure(stack: Stack, settings: dict[str, str]) -> dict[str, str]:
    """Write the configurations that stable runs with some settings changed; return their revisions by service."""
    images = {}
    for service, running_revision in stack.revisions().items():
        folder = stack.configurations / running_revision
        try:
            content = {
                str(path.relative_to(folder)): path.read_text(encoding="utf-8")
                for path in folder.rglob("*")
                if path.is_file()
            }
            for name, value in settings.items():
                content["environment"] = re.sub(f"(?m)^{name}=.*$", f"{name}='{value}'", content["environment"])
            images[service] = revisions.save(stack.configurations, content).name
        except (OSError, KeyError) as error:
            raise StackError(f"{folder} is not the configuration of {service}; run make up: {error}") from error
    return images


def remove(stack: Stack) -> list[str]:
    """Remove images and configurations of all faulty releases of this stack; return what remains."""
    for image in _images(stack):
        with suppress(StackError):
            stack.docker("rmi", "--force", image)
    used = stack.revisions().values()
    with suppress(StackError):
        stack.run(["scripts/stack/prune_revisions.sh", str(stack.configurations), *used])
    unused = {path.name for path in stack.configurations.glob("*")} - set(used)
    return [f"image {image}" for image in _images(stack)] + [f"configuration {name}" for name in sorted(unused)]


def _prefix(stack: Stack) -> str:
    return f"{stack.project}-broken"


def _images(stack: Stack) -> list[str]:
    references = [f"--filter=reference={_prefix(stack)}/{service}" for service in SERVICES]
    return stack.docker("images", "--format", "{{.Repository}}:{{.Tag}}", *references).split()
