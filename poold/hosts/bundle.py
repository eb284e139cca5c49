"""The agent as one file: a zip that python3 runs, named by its digest.

Flows in: the installed package. Flows out: the same bytes for the same code, always. It refuses
to know where they are sent. Only what the agent may import travels.
"""

from __future__ import annotations

import functools
import hashlib
import io
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

_TRAVELLERS = ("__init__.py", "errors.py", "model", "agent")
_MAIN = "import sys\n\nfrom poold.agent.__main__ import main\n\nsys.exit(main())\n"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


@dataclass(frozen=True)
class Bundle:
    """The agent's code; `sha256` is its name on every host."""

    content: bytes
    sha256: str


@functools.cache
def agent_bundle() -> Bundle:
    """Return the bundle of this installation; built once a process."""
    return build_bundle({"__main__.py": _MAIN.encode()})


def build_bundle(more: Mapping[str, bytes]) -> Bundle:
    """Build a bundle of the agent's code and `more` files; `__main__.py` is where it begins."""
    package = resources.files("poold")
    files = dict(more)
    for name in _TRAVELLERS:
        files.update(_files(package / name, f"poold/{name}"))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, files[name])
    return Bundle(content.getvalue(), hashlib.sha256(content.getvalue()).hexdigest())


def _files(node: Traversable, name: str) -> Iterator[tuple[str, bytes]]:
    if node.is_file():
        yield name, node.read_bytes()
        return
    for child in node.iterdir():
        if child.name != "__pycache__" and not child.name.endswith(".pyc"):
            yield from _files(child, f"{name}/{child.name}")
