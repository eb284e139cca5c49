"""The engine oci without a kernel: what it makes of podman's archive, and what it writes down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from poold.agent.engines.base import Published
from poold.agent.oci import archives, bundles, looking, networks, runtime, stages
from poold.agent.oci.boxes import Box, Boxes
from poold.agent.oci.host import look
from poold.errors import Permanent, Problem, Refused

SPEC: dict[str, Any] = {
    "process": {"args": ["java"], "user": {"uid": 7}, "capabilities": {"bounding": ["CAP_KILL"]}},
    "root": {"path": "/var/lib/containers/storage/overlay/x/merged"},
    "hostname": "f71cf18af73b",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/etc/hosts",
            "type": "bind",
            "source": "/run/containers/storage/overlay-containers/x/userdata/hosts",
            "options": ["bind"],
        },
        {
            "destination": "/dev/shm",
            "type": "bind",
            "source": "/var/lib/containers/storage/overlay-containers/x/userdata/shm",
            "options": ["bind"],
        },
        {"destination": "/data", "type": "bind", "source": "/srv/data", "options": ["rbind", "ro"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=10m"]},
    ],
    "annotations": {"org.criu.config": "/agent/criu/hello.conf"},
    "linux": {
        "cgroupsPath": "machine.slice:libpod:x",
        "namespaces": [{"type": "pid"}, {"type": "network", "path": "/run/netns/netns-1"}],
        "resources": {"memory": {"limit": 1 << 29}},
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO"},
    },
}
CONFIG: dict[str, Any] = {
    "rootfsImageID": "ab" * 32,
    "labels": {"io.poold.fleet": "f"},
    "newNetworks": {"podman": {}},
    "stopSignal": 3,
    "shmSize": 1000,
    "runtime": "runc",
}
BOX = Box("c" * 64, "hello1", "stage", "ab" * 32, "poold", "", (Published(8080, 20000),), "boot")
NET = {"type": "network", "path": "/run/netns/netns-1"}
FROM_PODMAN = {"type": "bind", "source": "/a/overlay-containers/b"}
NETWORK: dict[str, Any] = {
    "name": "poold",
    "driver": "bridge",
    "subnets": [{"subnet": "10.89.0.0/29", "gateway": "10.89.0.1"}],
}


def _bundle(tmp_path: Path) -> dict[str, Any]:
    return bundles.bundle(
        bundles.read(SPEC, CONFIG),
        tmp_path,
        rootfs=tmp_path / "rootfs",
        namespace=Path("/run/netns/poold-c"),
        group="machine.slice:poold:c",
        criu_config=tmp_path / "criu.conf",
    )


def test_a_bundle_is_what_podman_gave_but_for_what_is_its_own(tmp_path: Path) -> None:
    """Process, limits, seccomp, volumes and tmpfs stay; root, network, group, names are new."""
    spec = _bundle(tmp_path)
    sources = {mount["destination"]: mount["source"] for mount in spec["mounts"]}
    assert sources == {
        "/proc": "proc",
        "/etc/hosts": str(tmp_path / "hosts"),
        "/dev/shm": str(tmp_path / "shm"),
        "/data": "/srv/data",
        "/tmp": "tmpfs",
    }
    assert spec["process"] == SPEC["process"]
    assert spec["root"]["path"] == str(tmp_path / "rootfs")
    assert spec["linux"]["namespaces"][1] == {"type": "network", "path": "/run/netns/poold-c"}
    assert spec["linux"]["cgroupsPath"] == "machine.slice:poold:c"
    for kept in ("resources", "seccomp"):
        assert spec["linux"][kept] == SPEC["linux"][kept]
    assert spec["annotations"]["org.criu.config"] == str(tmp_path / "criu.conf")
    assert SPEC["root"]["path"].endswith("merged"), "the template is left as it was"


def test_a_template_tells_what_the_host_must_have() -> None:
    """Volumes, the image, the network and the stop signal are read from the archive."""
    template = bundles.read(SPEC, CONFIG)
    assert template.volumes == ("/srv/data",)
    assert (template.image_id, template.network, template.stop_signal) == ("ab" * 32, "podman", 3)
    assert dict(template.labels) == {"io.poold.fleet": "f"}


@pytest.mark.parametrize(
    ("spec", "config", "words"),
    [
        ({}, {"namedVolumes": [{"volumeName": "x"}]}, "anonymous volumes"),
        ({}, {"pod": "x"}, "pod"),
        ({}, {"rootfsImageID": ""}, "no image"),
        ({}, {"restartPolicy": "always"}, "restarted by podman"),
        ({}, {"newNetworks": {"a": {}, "b": {}}}, "several networks"),
        ({}, {"dnsServer": ["10.0.0.1"]}, "name servers"),
        ({}, {"idMappingsOptions": {"UIDMap": [1]}}, "user namespace"),
        ({"process": {"terminal": True}}, {}, "terminal"),
        ({"process": {"selinuxLabel": "x"}}, {}, "SELinux"),
        ({"hooks": {"prestart": [{}]}}, {}, "hooks"),
        ({"linux": {"namespaces": [{"type": "pid"}]}}, {}, "no network"),
        ({"linux": {"namespaces": [NET, {"type": "ipc", "path": "y"}]}}, {}, "shares a namespace"),
        ({"mounts": [{"destination": "/run/x", **FROM_PODMAN}]}, {}, "from podman's own folder"),
    ],
)  # fmt: skip
def test_what_cannot_be_given_again_is_left_to_podman(
    spec: dict[str, Any], config: dict[str, Any], words: str
) -> None:
    """Nothing is restored with less than it had: podman restores it, and the reason is said."""
    with pytest.raises(Refused, match="cannot restore with the engine oci") as refused:
        bundles.read({**SPEC, **spec}, {**CONFIG, **config})
    assert refused.value.code == "oci.unsupported"
    assert words in refused.value.message


def test_a_box_is_found_by_name_and_id_until_it_is_forgotten(tmp_path: Path) -> None:
    """A name is one box's, and free again after it."""
    boxes = Boxes(tmp_path)
    places = boxes.add(BOX)
    assert boxes.find("hello1") == boxes.find(BOX.container_id) == BOX
    assert boxes.all() == (BOX,)
    with pytest.raises(Permanent) as taken:
        boxes.add(replace(BOX, container_id="d" * 64))
    assert taken.value.code == "engine.name-taken"
    assert boxes.all() == (BOX,), "who came too late leaves nothing"
    places.upper.mkdir()
    boxes.forget(BOX.container_id)
    assert (boxes.find("hello1"), boxes.all(), places.folder.exists()) == (None, (), False)
    boxes.add(replace(BOX, container_id="d" * 64))


def test_what_a_crash_left_of_a_box_is_found(tmp_path: Path) -> None:
    """A folder without a description is rubbish; a name that leads nowhere is free."""
    boxes = Boxes(tmp_path)
    boxes.add(BOX)
    (tmp_path / "containers" / BOX.container_id / "box.json").unlink()
    assert boxes.rubbish() == (BOX.container_id,)
    assert boxes.find("hello1") is None
    boxes.add(replace(BOX, container_id="d" * 64))
    boxes.forget(BOX.container_id)
    assert boxes.rubbish() == ()
    assert boxes.find("hello1") is not None


def test_a_slot_gets_a_name_that_is_free(tmp_path: Path) -> None:
    """A slot has no name until it is claimed, and stays one when the name is taken."""
    boxes = Boxes(tmp_path)
    slot = replace(BOX, container_id="d" * 64, name="")
    boxes.add(BOX)
    boxes.add(slot)
    with pytest.raises(Permanent):
        boxes.name(slot, "hello1", 1.0)
    assert boxes.read(slot.container_id) == slot
    named = boxes.name(slot, "hello2", 1.0)
    assert boxes.find("hello2") == named
    assert (named.container_id, named.started_at) == (slot.container_id, 1.0)


def test_addresses_are_handed_out_once_from_the_top(tmp_path: Path) -> None:
    """Podman goes upwards: neither its gateway nor what it may lease is ever handed out."""
    boxes, nets = Boxes(tmp_path), networks.Networks("podman", "netavark")
    found = [
        boxes.claim(
            replace(BOX, container_id=f"{number:064x}", name=f"n{number}"),
            nets.candidates(NETWORK),
        ).address
        for number in range(5)
    ]
    assert found == ["10.89.0.6", "10.89.0.5", "10.89.0.4", "10.89.0.3", "10.89.0.2"]
    with pytest.raises(Permanent) as full:
        boxes.claim(replace(BOX, name="one-more"), nets.candidates(NETWORK))
    assert full.value.code == "network.no-address"
    boxes.forget(f"{2:064x}")
    assert boxes.claim(replace(BOX, name="x"), nets.candidates(NETWORK)).address == "10.89.0.4"
    lease = {"start_ip": "10.89.0.2", "end_ip": "10.89.0.4"}
    leased = {**NETWORK["subnets"][0], "lease_range": lease}
    assert list(nets.candidates({**NETWORK, "subnets": [leased]})) == ["10.89.0.6", "10.89.0.5"]


def test_a_taken_port_is_told_and_the_others_given_back() -> None:
    """All ports or none."""
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen(1)
        taken = stranger.getsockname()[1]
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            free = probe.getsockname()[1]
        wanted = (Published(1, free, "127.0.0.1"), Published(2, taken, "127.0.0.1"))
        with pytest.raises(Problem) as told:
            networks.listen(wanted)
        assert told.value.code == "engine.port-taken"
    for each in networks.listen(wanted):
        each.close()


def test_a_container_knows_its_own_name_and_address(tmp_path: Path) -> None:
    """Readable by the container's users, whatever the agent's umask."""
    networks.write_files(
        tmp_path, name="hello1", host_name="f71c", address="10.89.0.6", gateway="10.89.0.1",
        image="x",
    )  # fmt: skip
    lines = (tmp_path / "hosts").read_text().splitlines()
    assert lines[-2:] == [
        "10.89.0.1\thost.containers.internal host.docker.internal",
        "10.89.0.6\thello1 f71c",
    ]
    assert (tmp_path / "hostname").read_text() == "hello1\n"
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


def test_logs_are_put_together_as_they_were_written(tmp_path: Path) -> None:
    """Long lines are cut long lines into pieces marked P by conmon."""
    log = tmp_path / "ctr.log"
    log.write_text(
        "2026-01-01T00:00:00Z stdout F one\n"
        "2026-01-01T00:00:00Z stderr P tw\n"
        "2026-01-01T00:00:00Z stderr F o\n"
        "2026-01-01T00:00:00Z stdout F \n"
        "2026-01-01T00:00:00Z stdout P thr\n"
    )
    assert looking.lines_of(log, 10) == ("one", "two", "", "thr")
    assert looking.lines_of(log, 2) == ("", "thr")
    assert looking.lines_of(tmp_path / "none", 2) == ()


def test_changes_since_the_image_are_those_of_the_stage_and_since(tmp_path: Path) -> None:
    """What is there now is packed; what the image has and is gone now is deleted on restore."""
    image, layer, upper, merged = (
        tmp_path / name for name in ("image", "layer", "upper", "merged")
    )
    files = (
        *("image/etc/kept", "image/etc/gone", "layer/etc/staged", "layer/tmp/short-lived"),
        *("upper/etc/new", "merged/etc/kept", "merged/etc/staged", "merged/etc/new"),
    )
    for path in files:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (merged / "tmp").mkdir()
    (upper / "etc/gone").touch()  # stands for a whiteout: not there in the merged view
    found = archives.changes((upper, layer), merged, (image,))
    assert found.present == ("etc", "etc/new", "etc/staged", "tmp")
    assert found.deleted == ("/etc/gone",)


def test_an_archive_is_known_by_its_file(tmp_path: Path) -> None:
    """Moved it is the same stage, changed another one."""
    archive = tmp_path / "archive.tar"
    archive.write_bytes(b"x")
    key = stages.key_of(archive)
    archive.rename(tmp_path / "moved.tar")
    assert stages.key_of(tmp_path / "moved.tar") == key
    (tmp_path / "moved.tar").write_bytes(b"xy")
    assert stages.key_of(tmp_path / "moved.tar") != key


def test_stages_go_with_their_archive_but_not_under_a_replica(tmp_path: Path) -> None:
    """Used ones stay, those another agent makes too; what a dead one left goes."""

    async def no_layers(_: str) -> tuple[Path, ...]:
        return ()

    archive = tmp_path / "archive.tar"
    archive.write_bytes(b"x")
    sealed = {"archive": str(archive), "key": stages.key_of(archive), "image_id": "ab"}
    ended = subprocess.Popen(["true"])
    ended.wait()
    for name in ("there", "used", "used.5.replaced", "gone", "gone.5.replaced",
                 f"x.{os.getpid()}.part", f"x.{ended.pid}.part"):  # fmt: skip
        folder = tmp_path / "stages" / name
        folder.mkdir(parents=True)
        if name == "there":
            (folder / "stage.json").write_text(json.dumps(sealed))
    kept = stages.Stages(tmp_path, no_layers)
    kept.sweep({"used"})
    left = {folder.name for folder in (tmp_path / "stages").iterdir()}
    assert left == {"there", "used", "used.5.replaced", f"x.{os.getpid()}.part"}
    archive.unlink()
    kept.sweep(())
    left = {folder.name for folder in (tmp_path / "stages").iterdir()}
    assert left == {f"x.{os.getpid()}.part"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda info: info["host"]["security"].update(selinuxEnabled=True), "SELinux"),
        (lambda info: info["host"]["security"].update(rootless=True), "rootless"),
        (lambda info: info["store"].update(graphDriverName="btrfs"), "btrfs"),
        (lambda info: info["host"]["ociRuntime"].update(name="youki"), "youki"),
        (lambda info: info["host"]["networkBackendInfo"].clear(), "netavark"),
    ],
)
def test_a_host_that_cannot_says_why(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    """Podman restores there."""
    info: dict[str, Any] = {
        "host": {
            "security": {}, "conmon": {"path": "/usr/bin/conmon"},
            "ociRuntime": {"name": "runc", "path": "/usr/bin/runc"},
            "networkBackendInfo": {"path": "/usr/lib/podman/netavark"},
        },
        "store": {"graphDriverName": "overlay", "graphRoot": str(tmp_path)},
    }  # fmt: skip
    change(info)

    async def no_layers(_: str) -> tuple[Path, ...]:
        return ()

    with pytest.raises(Refused, match="cannot use the engine oci on this host") as refused:
        look(info, "podman", no_layers, root=tmp_path / "poold")
    assert words in refused.value.message
    assert not (tmp_path / "poold").exists()


def test_a_box_whose_processes_are_gone_is_not_running(tmp_path: Path) -> None:
    """The id of a process says nothing: another one may have it by now."""
    places = Boxes(tmp_path).add(BOX)
    assert runtime.status(places) == "created"
    (places.folder / "pidfile").write_text(str(os.getpid()))
    (places.folder / "conmon.pid").write_text(str(os.getpid()))  # nobody is a child of himself
    assert not runtime.is_running(places)
    assert runtime.status(places) == "exited"


def test_how_a_box_is_written_is_how_it_is_read(tmp_path: Path) -> None:
    """Another agent process reads what this one wrote."""
    boxes = Boxes(tmp_path)
    boxes.add(replace(BOX, labels={"a": "b"}, published=(Published(1, 2, "::1"),)))
    written = json.loads((tmp_path / "containers" / BOX.container_id / "box.json").read_text())
    assert written["published"] == [{"container_port": 1, "host_port": 2, "address": "::1"}]
    assert Boxes(tmp_path).find("hello1") == boxes.find("hello1")


def test_a_box_is_renamed_in_one_step(tmp_path: Path) -> None:
    """The old name is free at once; another box's name is refused and nothing changes."""
    boxes = Boxes(tmp_path)
    boxes.add(BOX)
    boxes.add(replace(BOX, container_id="d" * 64, name="hello2"))
    with pytest.raises(Permanent) as caught:
        boxes.rename(BOX, "hello2")
    assert caught.value.code == "engine.name-taken"
    assert boxes.find("hello1") == BOX
    renamed = boxes.rename(BOX, "hello3")
    assert renamed == replace(BOX, name="hello3")
    assert (boxes.find("hello3"), boxes.find("hello1")) == (renamed, None)
    boxes.prune_names()
    assert sorted(path.name for path in (tmp_path / "names").iterdir()) == ["hello2", "hello3"]


def test_a_file_with_a_name_is_written_in_place(tmp_path: Path) -> None:
    """Longer, shorter and the same: whoever has it open or mounted sees what is written."""
    path = tmp_path / "hostname"
    for name in ("poold-spare-0123456789ab", "hello1", "hello1", "hello12"):
        networks.write_files(
            tmp_path, name=name, host_name="", address="10.0.0.2", gateway="", image="i"
        )
        inode = path.stat().st_ino
        assert path.read_text() == f"{name}\n"
        assert path.stat().st_mode & 0o777 == 0o644
    assert path.stat().st_ino == inode
    assert (tmp_path / "hosts").read_text().endswith("10.0.0.2\thello12\n")


@pytest.mark.parametrize("link", ["hello1", "hello3"])
def test_a_link_that_a_crash_left_of_a_renaming_is_nobodys(link: str, tmp_path: Path) -> None:
    """Claimed and not written, or written and not let go: the box itself says its name."""
    boxes = Boxes(tmp_path)
    boxes.add(BOX)
    if link == "hello1":
        boxes.rename(BOX, "hello2")
    else:
        (tmp_path / "names" / link).symlink_to(BOX.container_id)
    assert boxes.find(link) is None
    boxes.prune_names()
    kept = [path.name for path in (tmp_path / "names").iterdir()]
    assert kept == (["hello2"] if link == "hello1" else ["hello1"])
