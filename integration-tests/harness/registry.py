"""An image registry for a drill, and manipulations that its owner could make through its API."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
from harness.commands import run

from shared.testing.ports import free_port

_INDEX = "application/vnd.oci.image.index.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"


class LocalRegistry:
    """A registry on this machine, with its own port and folder."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.prefix = f"{self.address}/bank"
        self._environment = {"REGISTRY_DIR": str(folder), "REGISTRY_PORT": str(port)}
        run(["scripts/images/local_registry.sh", "start"], **self._environment)

    def close(self) -> None:
        """Stop it and remove its images."""
        run(["scripts/images/local_registry.sh", "stop"], **self._environment)
        images = run(["docker", "images", "--quiet", "--filter", f"reference={self.prefix}/*"]).split()
        if images:
            run(["docker", "rmi", "--force", *dict.fromkeys(images)])


class ImageRepository:
    """A repository of a registry on this machine: the images of one name."""

    def __init__(self, address: str, name: str) -> None:
        self._client = httpx.Client(base_url=f"http://{address}/v2/{name}", timeout=30)

    def index(self, digest: str) -> dict[str, Any]:
        """Return the index of attachments of an image, by the tag that Cosign uses without the referrers API."""
        response = self._client.get(f"/manifests/{digest.replace(':', '-')}", headers={"Accept": _INDEX})
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    def manifest(self, digest: str) -> dict[str, Any]:
        """Return the manifest of an image."""
        response = self._client.get(f"/manifests/{digest}", headers={"Accept": _MANIFEST})
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    def manifest_layers(self, digest: str) -> list[str]:
        """Return the digests of an image's layers."""
        accepted = f"{_MANIFEST}, application/vnd.docker.distribution.manifest.v2+json"
        response = self._client.get(f"/manifests/{digest}", headers={"Accept": accepted})
        response.raise_for_status()
        return [layer["digest"] for layer in response.json()["layers"]]

    def blob(self, digest: str) -> bytes:
        """Return a blob: a layer, configuration or attestation."""
        response = self._client.get(f"/blobs/{digest}")
        response.raise_for_status()
        return response.content

    def put_blob(self, content: bytes) -> str:
        """Upload a blob and return its digest."""
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        location = self._client.post("/blobs/uploads/").headers["location"]
        self._client.put(
            httpx.URL(location).copy_merge_params({"digest": digest}),
            content=content,
            headers={"Content-Type": "application/octet-stream"},
        ).raise_for_status()
        return digest

    def put_manifest(self, manifest: dict[str, Any], tag: str = "", kind: str = _MANIFEST) -> tuple[str, int]:
        """Store a manifest under a tag or its own digest; return digest and size."""
        content = json.dumps(manifest).encode()
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        self._client.put(
            f"/manifests/{tag or digest}", content=content, headers={"Content-Type": kind}
        ).raise_for_status()
        return digest, len(content)

    def attach(self, source: str, target: str, change: Callable[[dict[str, Any]], dict[str, Any]] | None = None) -> int:
        """Attach the attachments of `source` to `target`, with changed bundles; return how many have changed."""
        index, changed = self.index(source), 0
        subject = self.manifest_entry(target)
        for entry in index["manifests"]:
            manifest = self.manifest(entry["digest"])
            manifest["subject"] = subject
            for layer in manifest["layers"]:
                bundle = json.loads(self.blob(layer["digest"]))
                altered = change(bundle) if change else bundle
                if altered != json.loads(self.blob(layer["digest"])):
                    changed += 1
                    content = json.dumps(altered).encode()
                    layer["digest"], layer["size"] = self.put_blob(content), len(content)
            entry["digest"], entry["size"] = self.put_manifest(manifest)
        self.put_manifest(index, target.replace(":", "-"), _INDEX)
        return changed

    def manifest_entry(self, digest: str) -> dict[str, Any]:
        """Return the entry of a manifest in an index."""
        response = self._client.get(
            f"/manifests/{digest}",
            headers={"Accept": f"{_MANIFEST}, application/vnd.docker.distribution.manifest.v2+json"},
        )
        response.raise_for_status()
        return {"mediaType": response.headers["content-type"], "digest": digest, "size": len(response.content)}


def alter_sbom(bundle: dict[str, Any]) -> dict[str, Any]:
    """Return a bundle with other components in its SBOM (CycloneDX); other bundles unchanged."""
    changed: dict[str, Any] = json.loads(json.dumps(bundle))
    envelope = changed.get("dsseEnvelope", {})
    statement = json.loads(base64.b64decode(envelope.get("payload", "e30=")))
    if "cyclonedx" not in statement.get("predicateType", ""):
        return changed
    statement["predicate"]["components"] = [{"type": "library", "name": "harmless", "version": "1"}]
    envelope["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()
    return changed
