"""Copy the image references of docker/registry/Dockerfile, which Dependabot updates, to .env: `make base-images`."""

import re

from shared.testing.paths import ROOT

SOURCE = ROOT / "docker" / "registry" / "Dockerfile"
TARGET = ROOT / ".env"


def references(dockerfile: str) -> dict[str, str]:
    """Return the reference of each stage by variable."""
    return {stage.upper(): image for image, stage in re.findall(r"^FROM (\S+) AS (\w+)$", dockerfile, re.MULTILINE)}


def updated(settings: str, images: dict[str, str]) -> str:
    """Return the content of .env with these images; a digest stays as long as its tag."""
    for variable, image in images.items():
        pinned = re.escape(image) + "(?:@sha256:[0-9a-f]{64})?"
        if not re.search(f"^{variable}={pinned}$", settings, re.MULTILINE):
            settings = re.sub(f"^{variable}=.*$", f"{variable}={image}", settings, flags=re.MULTILINE)
    return settings


def main() -> None:
    """Write .env."""
    images = references(SOURCE.read_text(encoding="utf-8"))
    TARGET.write_text(updated(TARGET.read_text(encoding="utf-8"), images), encoding="utf-8")


if __name__ == "__main__":
    main()
