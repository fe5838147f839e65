"""The images of a faulty release: the images that stable runs, with one more layer."""

from contextlib import suppress

from scripts.faults.stack import SERVICES, Stack, StackError

_FOLDER = "scripts/faults"


def version(fault: str) -> str:
    """Return the version of a faulty release, as clients and operators see it."""
    return f"broken-{fault}"


def build(stack: Stack, fault: str) -> dict[str, str]:
    """Build the images of a faulty release and return them by service. Raises StackError."""
    built = {}
    for service, image in stack.images().items():
        built[service] = f"{_prefix(stack)}/{service}:{fault}"
        arguments = {"RELEASE": image, "FAULT": fault, "VERSION": version(fault)}
        words = [word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")]
        stack.docker("build", "--quiet", *words, "--tag", built[service], _FOLDER)
    return built


def remove(stack: Stack) -> list[str]:
    """Remove the images of all faulty releases of this stack; return those that remain."""
    for image in _images(stack):
        with suppress(StackError):
            stack.docker("rmi", "--force", image)
    return _images(stack)


def _prefix(stack: Stack) -> str:
    return f"{stack.project}-broken"


def _images(stack: Stack) -> list[str]:
    references = [f"--filter=reference={_prefix(stack)}/{service}" for service in SERVICES]
    return stack.docker("images", "--format", "{{.Repository}}:{{.Tag}}", *references).split()
