"""Archives from anywhere: what podman writes is taken over, everything else is refused."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
import threading
from pathlib import Path

import pytest

from poold.agent.oci import exports, guests
from poold.errors import Permanent, Problem, Refused
from poold.model.application import Application, Volume

PODMANS = "/run/containers/storage/overlay-containers/" + "a" * 64 + "/userdata/hosts"
SPEC = {
    "process": {"args": ["java"], "capabilities": {"bounding": ["CAP_CHOWN"]}},
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/etc/hosts", "type": "bind", "source": PODMANS, "options": ["bind"]},
    ],
    "annotations": {"org.criu.config": "/etc/shadow", "io.container.manager": "libpod"},
    "linux": {
        "namespaces": [
            {"type": "pid"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc"},
            {"type": "uts"}, {"type": "mount"},
        ],
        "maskedPaths": ["/proc/kcore"],
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
    },
}  # fmt: skip
CONFIG = {
    "rootfsImageID": "1" * 64, "labels": {"mine": "x"}, "newNetworks": {"podman": {}},
    "runtime": "runc", "logDriver": "journald", "exitCommand": ["/bin/rubbish"],
}  # fmt: skip
APPLICATION = Application(image="hello", port=8080, volumes=(Volume("/srv/x", "/x"),))
IMAGES = {f"checkpoint/{name}": b"image" for name in ("inventory.img", "pstree.img", "pages-1.img")}


def member(name: str, data: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    """Return something to put into an archive."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return an archive of these."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for info, data in members:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def podmans(*more: tuple[tarfile.TarInfo, bytes], without: str = "", spec=None, config=None):
    """Return an archive as podman writes it, with more in it or without a part."""
    files = {
        **IMAGES,
        "spec.dump": json.dumps(spec or SPEC).encode(),
        "config.dump": json.dumps(config or CONFIG).encode(),
        "rootfs-diff.tar": tar(member("opt/x", b"y"), member("opt/l", type=tarfile.SYMTYPE)),
        "devshm-checkpoint.tar": tar(member("./", type=tarfile.DIRTYPE)),
        "stats-dump": b"s",
        "artifacts/metrics": b"m",
    }
    files.pop(without, None)
    folders = [member("checkpoint/", type=tarfile.DIRTYPE)]
    return tar(*folders, *(member(name, data) for name, data in files.items()), *more)


@pytest.fixture
def take(tmp_path: Path):
    """Return what reads an archive given as bytes."""

    def take(data: bytes, *, most_bytes: int = 1 << 20, edit=lambda spec, config: None):
        source, target = tmp_path / "source", tmp_path / "target.tar"
        source.write_bytes(data)
        found = exports.rewrite(
            source, target, most_bytes=most_bytes, edit=edit, stop=threading.Event()
        )
        return found, tarfile.open(target)

    return take


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd])
def test_whatever_podman_writes_is_taken_over(take, compress):
    """Uncompressed, gzip or zstd: its parts are there, private, and the descriptions as edited."""

    def edit(spec, config):
        guests.adopt(spec, config, labels={"ours": "yes"}, criu_config="/agent/criu.conf")

    found, archive = take(compress(podmans()), edit=edit)
    with archive:
        members = {each.name: each for each in archive}
        assert members.keys() == {
            *IMAGES, "spec.dump", "config.dump", "rootfs-diff.tar", "devshm-checkpoint.tar",
            "stats-dump",
        }  # fmt: skip
        assert {each.mode for each in members.values()} == {0o600}
        spec = json.load(archive.extractfile("spec.dump"))
        config = json.load(archive.extractfile("config.dump"))
    assert found.bytes > 0
    assert config["labels"] == {"mine": "x", "ours": "yes"}
    assert (config["logDriver"], "exitCommand" in config) == ("k8s-file", False)
    assert spec["annotations"] == {
        "org.criu.config": "/agent/criu.conf", "io.container.manager": "libpod",
    }  # fmt: skip


RUBBISH = {
    "no archive": b"hello" * 200,
    "nothing": b"",
    "cut": podmans()[:3000],
    "cut gzip": gzip.compress(podmans())[:200],
    "cut zstd": zstd(podmans())[:200],
    "absolute": podmans(member("/etc/passwd", b"x")),
    "upwards": podmans(member("checkpoint/../../x", b"x")),
    "link": podmans(member("checkpoint/x.img", type=tarfile.SYMTYPE, linkname="/etc/shadow")),
    "hard link": podmans(member("checkpoint/x.img", type=tarfile.LNKTYPE, linkname="/etc/shadow")),
    "device": podmans(member("checkpoint/x.img", type=tarfile.CHRTYPE)),
    "deep": podmans(member("checkpoint/x/y", b"x")),
    "twice": podmans(member("spec.dump", b"{}")),
    "volume": podmans(member("data.tar", b"x")),
    "no images": podmans(without="checkpoint/inventory.img"),
    "no memory": podmans(without="checkpoint/pages-1.img"),
    "no spec": podmans(without="spec.dump"),
    "bad spec": tar(member("spec.dump", b"{")),
    "list spec": tar(member("spec.dump", b"[]")),
    "inner upwards": podmans(
        member("rootfs-diff.tar", tar(member("../x", b"x"))), without="rootfs-diff.tar"
    ),
    "inner link": podmans(
        member(
            "rootfs-diff.tar",
            tar(member("a", type=tarfile.SYMTYPE, linkname="/etc"), member("a/b", b"x")),
        ),
        without="rootfs-diff.tar",
    ),
    "inner device": podmans(
        member("rootfs-diff.tar", tar(member("a", type=tarfile.BLKTYPE))),
        without="rootfs-diff.tar",
    ),
    "shm link": podmans(
        member("devshm-checkpoint.tar", tar(member("a", type=tarfile.SYMTYPE))),
        without="devshm-checkpoint.tar",
    ),
    "deleted upwards": podmans(member("deleted.files", b'["/../etc/passwd"]')),
}


@pytest.mark.parametrize("what", RUBBISH)
def test_rubbish_is_refused(take, what):
    """Each is refused with a sentence that names what is wrong, and a way out."""
    with pytest.raises(Refused) as caught:
        take(RUBBISH[what])
    assert caught.value.code == "import.bad-archive"
    assert caught.value.message.startswith("cannot import the archive: ")
    assert caught.value.hint


def test_more_than_may_be_written_is_refused(take):
    """An archive that grows when it is unpacked ends where the disk's reserve begins."""
    bomb = gzip.compress(podmans(member("ctr.log", bytes(1 << 22))))
    with pytest.raises(Problem) as caught:
        take(bomb, most_bytes=1 << 20)
    assert caught.value.code == "host.disk-full"
    assert isinstance(caught.value, Permanent)


@pytest.mark.parametrize("what", ["missing", "folder", "pipe"])
def test_only_a_file_is_read(tmp_path, what):
    """What would block or is not there is refused at once."""
    import os

    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    with pytest.raises(Refused):
        exports.rewrite(
            path, tmp_path / "out", most_bytes=1, edit=lambda *_: None, stop=threading.Event()
        )


def changed(**linux: object) -> dict:
    return {**SPEC, "linux": {**SPEC["linux"], **linux}}


def mounting(**mount: object) -> dict:
    return {**SPEC, "mounts": [mount]}


HOSTILE = {
    "capability": ({**SPEC, "process": {"capabilities": {"bounding": ["CAP_SYS_ADMIN"]}}}, {}),
    "hooks": ({**SPEC, "hooks": {"prestart": []}, "process": {}} | {"hooks": {"a": 1}}, {}),
    "device": (changed(devices=[{"path": "/dev/sda"}]), {}),
    "device rule": (changed(resources={"devices": [{"allow": True}]}), {}),
    "unconfined": (changed(seccomp=None), {}),
    "unmasked": (changed(maskedPaths=[]), {}),
    "sysctl": (changed(sysctl={"kernel.core_pattern": "|/x"}), {}),
    "host's pids": (changed(namespaces=[{"type": "network"}, {"type": "ipc"}]), {}),
    "bind": (mounting(type="bind", source="/", destination="/host"), {}),
    "bind as podman's": (
        mounting(type="bind", source=f"{PODMANS}/../../x", destination="/etc/hosts"), {},
    ),
    "rbind": (mounting(type="none", source="/", destination="/h", options=["rbind"]), {}),
    "overlay": (mounting(type="overlay", source="o", destination="/h"), {}),
    "sys": (mounting(type="sysfs", source="sysfs", destination="/sys", options=[]), {}),
    "privileged": (SPEC, {"privileged": True}),
    "inside the configuration": (SPEC, {"spec": changed(devices=[{"path": "/dev/sda"}])}),
    "volumes": (SPEC, {"namedVolumes": [{"volumeName": "x"}]}),
    "a file of the host": (SPEC, {"conmonPidFile": "/etc/cron.d/x"}),
    "host network": (SPEC, {"networkMode": "host"}),
}  # fmt: skip


@pytest.mark.parametrize("what", HOSTILE)
def test_what_the_pool_would_not_give_is_not_taken(what):
    """A description that asks for more of the host than the pool's own containers get."""
    spec, config = HOSTILE[what]
    assert list(guests.why_not(spec, {**CONFIG, **config}, APPLICATION))


def test_what_the_pool_has_is_taken():
    """The pool's volumes are the container's; podman's defaults are nobody's fault."""
    volume = {"destination": "/x", "type": "bind", "source": "/srv/x", "options": ["rbind"]}
    spec = {**SPEC, "mounts": [*SPEC["mounts"], volume]}
    assert list(guests.why_not(spec, {**CONFIG, "spec": spec}, APPLICATION)) == []
