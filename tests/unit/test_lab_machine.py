"""What the lab finds out about the machine it runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from poold.errors import Permanent
from poold.lab import machine

DEB822 = """Types: deb
# a comment
URIs: http://mirror.example/debian
Suites: bookworm
"""
ONE_LINE = "deb [signed-by=/usr/share/keyrings/k.gpg] http://mirror.example/debian/ bookworm main\n"
OTHERS = """deb http://tools.example/apt stable main
deb http://mirror.example/debian-security bookworm-security main
"""


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("POOLD_LAB_MIRROR", raising=False)


def sources(folder: Path, **files: str) -> Path:
    (folder / "sources.list.d").mkdir(parents=True)
    for name, text in files.items():
        (folder / "sources.list.d" / name.replace("_", ".")).write_text(text)
    return folder


@pytest.mark.parametrize(
    ("text", "mirror"),
    [(DEB822, "http://mirror.example/debian"), (ONE_LINE, "http://mirror.example/debian/")],
)
def test_the_mirror_is_read_in_either_format(tmp_path: Path, text: str, mirror: str) -> None:
    """Debian's mirror is found among other repositories, in both of apt's formats."""
    apt = sources(tmp_path / "apt", a_list=OTHERS, debian_sources=text)
    assert machine.debian_mirror(apt) == mirror


def test_no_mirror_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    """A machine of another distribution is told which variable to set."""
    with pytest.raises(Permanent, match=r"cannot find a Debian mirror.*POOLD_LAB_MIRROR"):
        machine.debian_mirror(sources(tmp_path / "apt", a_list=OTHERS))


def test_a_chosen_mirror_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment overrides the machine's sources."""
    monkeypatch.setenv("POOLD_LAB_MIRROR", "http://near.example/debian")
    assert machine.debian_mirror(tmp_path) == "http://near.example/debian"
