"""Images are written without an engine, in the form that engines load."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import pytest

from poold.errors import Refused
from poold.lab.cache import Cache
from poold.lab.images import get_image
from poold.lab.images.archive import Layer, pack_layer, write_archive


@pytest.fixture
def layer(tmp_path: Path) -> Layer:
    root = tmp_path / "root"
    (root / "dev").mkdir(parents=True)
    (root / "dev/null").touch()
    (root / "greeting").write_text("hello")
    return pack_layer(root, tmp_path / "layer.tar")


def archive(file: Path, layer: Layer) -> str:
    return write_archive(
        file,
        name="localhost/test:latest",
        layers=[layer],
        environment={"PATH": "/bin"},
        command=["run", "it"],
    )


def test_an_archive_holds_what_its_digests_say(tmp_path: Path, layer: Layer) -> None:
    """The manifest names the configuration and layers, each under its own digest."""
    image_id = archive(tmp_path / "image.tar", layer)
    with tarfile.open(tmp_path / "image.tar") as tar:
        files = {m.name: stream.read() for m in tar if (stream := tar.extractfile(m))}
    (manifest,) = json.loads(files["manifest.json"])
    assert manifest["RepoTags"] == ["localhost/test:latest"]
    config = files[manifest["Config"]]
    assert hashlib.sha256(config).hexdigest() == image_id
    (packed,) = (files[name] for name in manifest["Layers"])
    assert json.loads(config)["rootfs"]["diff_ids"] == [
        f"sha256:{hashlib.sha256(packed).hexdigest()}"
    ]
    assert json.loads(config)["config"]["Cmd"] == ["run", "it"]


def test_the_same_content_is_the_same_image(tmp_path: Path, layer: Layer) -> None:
    """The id does not depend on when or where the archive is written."""
    assert archive(tmp_path / "one.tar", layer) == archive(tmp_path / "two.tar", layer)


def test_device_files_stay_out_of_a_layer(layer: Layer) -> None:
    """The folder of devices is packed empty."""
    with tarfile.open(layer.file) as tar:
        names = tar.getnames()
    assert "./greeting" in names
    assert "./dev" in names
    assert "./dev/null" not in names


def test_an_unknown_image_is_refused(tmp_path: Path) -> None:
    """The error names the images there are."""
    with pytest.raises(Refused, match=r"cannot make an image 'jetty'.*wildfly, tomcat, counter"):
        get_image(Cache(tmp_path), "jetty")
