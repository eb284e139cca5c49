"""The configuration that a lab writes is one that poold reads."""

from __future__ import annotations

from pathlib import Path

import pytest

from poold import config
from poold.errors import Refused
from poold.lab import Lab, settings
from poold.lab.host import Host


def written(folder: Path, *, images: dict[str, str]) -> config.Config:
    hosts = [
        Host(
            name=name,
            address=address,
            folder=folder / name,
            cgroup=folder,
            namespace=folder / "netns",
            base=folder,
        )
        for name, address in (("a", "10.77.0.11"), ("b", "10.77.0.12"))
    ]
    for file in ("id_ed25519", "known_hosts"):
        (folder / file).touch(mode=0o600)
    text = settings.configuration(state=folder, hosts=hosts, builder="a", images=images)
    (folder / "poold.toml").write_text(text, encoding="utf-8")
    return config.load(folder / "poold.toml")


def test_each_image_brings_its_pools(tmp_path: Path) -> None:
    """WildFly is there in both of the article's ways, Tomcat once; all on both hosts."""
    read = written(tmp_path, images={"wildfly": "localhost/w:1", "tomcat": "localhost/t:1"})
    assert sorted(read.hosts) == ["a", "b"]
    assert sorted(read.pools) == ["hello", "hello-tmpfs", "tomcat"]


def test_a_pool_without_its_image_is_left_out(tmp_path: Path) -> None:
    """A lab with Tomcat only has no WildFly pool."""
    assert sorted(written(tmp_path, images={"tomcat": "localhost/t:1"}).pools) == ["tomcat"]


@pytest.mark.parametrize("name", ["", "Upper", "../etc", "a" * 40, "1st"])
def test_a_bad_lab_name_is_refused(name: str) -> None:
    """A lab's name becomes part of paths and kernel names."""
    with pytest.raises(Refused, match="cannot name a lab"):
        Lab(name)


def test_a_lab_that_is_not_up_has_no_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking is harmless and the error says how to bring it up."""
    monkeypatch.setenv("POOLD_LAB_STATE", str(tmp_path / "labs"))
    lab = Lab("nowhere")
    assert lab.status() == []
    with pytest.raises(Refused, match=r"cannot find host 'a'.*poold lab up"):
        lab.host("a")
    with pytest.raises(Refused, match="it is not up"):
        lab.run("true")
    assert not (tmp_path / "labs").exists()
