"""Writes a docker archive by hand: uncompressed layers and a configuration, no engine needed.

https://github.com/moby/docker-image-spec/blob/main/spec.md
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from dataclasses import dataclass
from pathlib import Path

from poold.lab.commands import run

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
# Constant, so that the same content gives the same image.
_CREATED = "2025-01-01T00:00:00Z"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Layer:
    """One tar file and its digest, in hexadecimal digits."""

    file: Path
    digest: str


def pack_layer(root: Path, file: Path) -> Layer:
    """Pack a folder as a layer; device files stay out, an engine makes its own."""
    run(
        *("tar", "--create", "--file", file, "--directory", root, "--numeric-owner", "--sort=name"),
        *("--exclude=./dev/*", "--exclude=./proc/*", "--exclude=./sys/*"),
        ".",
        what=f"pack {file.name}",
    )
    return read_layer(file)


def read_layer(file: Path) -> Layer:
    """Return a layer that was packed before."""
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            digest.update(chunk)
    return Layer(file, digest.hexdigest())


def write_archive(
    file: Path, *, name: str, layers: list[Layer], environment: dict[str, str], command: list[str]
) -> str:
    """Write the archive for `podman load`; return the image's id, which podman will give it."""
    document = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "created": _CREATED,
        "config": {
            "Env": [f"{key}={value}" for key, value in environment.items()],
            "Cmd": command,
            "WorkingDir": "/",
            "ExposedPorts": {"8080/tcp": {}},
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.digest}" for layer in layers]},
        "history": [{"created": _CREATED, "created_by": "poold lab"} for _ in layers],
    }
    text = json.dumps(document, sort_keys=True).encode()
    image_id = hashlib.sha256(text).hexdigest()
    manifest = {
        "Config": f"{image_id}.json",
        "RepoTags": [name],
        "Layers": [f"{layer.digest}.tar" for layer in layers],
    }
    with tarfile.open(file, "w") as archive:
        _add(archive, "manifest.json", json.dumps([manifest]).encode())
        _add(archive, f"{image_id}.json", text)
        for layer in layers:
            archive.add(layer.file, f"{layer.digest}.tar")
    return image_id


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))
