"""A lab: some hosts on one bridge, their images, keys and the configuration that poold needs.

`Lab` puts the parts together. Everything of a lab is below its state folder, its cgroup and its
network namespace; `down` removes all three. Calls that change a lab hold the lock of all labs.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from poold.errors import Refused
from poold.lab import base, cgroups, images, machine, network, settings
from poold.lab.cache import Cache, recipe_key, remove_tree
from poold.lab.commands import run
from poold.lab.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

_HOST_NAMES = "abcdefghijklmnopqrstuvwxyz"
_BUILDER = "image-builder"
_STORE_FORMAT = 1
_LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def state_root() -> Path:
    """Return where all labs keep their state; POOLD_LAB_STATE overrides the place.

    Hosts' disks are there, so it must not be on an overlay or on tmpfs.
    """
    return Path(os.environ.get("POOLD_LAB_STATE", "/var/lib/poold-lab"))


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """What `ls` shows of a host."""

    name: str
    address: str
    running: bool
    cut: bool
    process: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """What a lab must remember: the base its hosts stand on, the images it was given."""

    base: Path | None = None
    images: tuple[str, ...] = ()


class Lab:
    """One lab by its name, up or not."""

    def __init__(self, name: str = "default", *, cache: Cache | None = None) -> None:
        if not _LAB_NAME.fullmatch(name):
            raise Refused(
                "lab.bad-name",
                f"cannot name a lab {name!r}",
                hint="use up to 31 lower-case letters, digits and dashes, a letter first",
            )
        self.name = name
        self.cache = cache or Cache.default()
        self.state_dir = state_root() / name

    @staticmethod
    def names() -> list[str]:
        """Return the names of all labs on this machine."""
        root = state_root()
        found = root.iterdir() if root.is_dir() else iter(())
        return sorted(path.name for path in found if _LAB_NAME.fullmatch(path.name))

    @property
    def config_path(self) -> Path:
        """The configuration for poold, written by `up`."""
        return self.state_dir / "poold.toml"

    @property
    def key_path(self) -> Path:
        """The private key that opens root's account on every host."""
        return self.state_dir / "id_ed25519"

    @property
    def known_hosts_path(self) -> Path:
        """The hosts' own keys, pinned by address."""
        return self.state_dir / "known_hosts"

    @property
    def netns_path(self) -> Path:
        """The lab's network namespace, as a file to enter it by."""
        return self.state_dir / "netns"

    @property
    def cgroup(self) -> Path:
        """The cgroup of everything that the lab started."""
        return machine.cgroup2() / f"poold-lab-{self.name}"

    def setup(self, image_names: Iterable[str] = images.IMAGES) -> None:
        """Fill the cache with the base system and images, removing what they supersede."""
        machine.need_root()
        machine.need_programs(machine.TO_RUN)
        with self.cache.locked():
            current = self._base()
            wanted = [images.get_image(self.cache, name) for name in image_names]
            if wanted:
                self._image_store(current, wanted)

    def up(
        self,
        *,
        hosts: int = 2,
        image_names: Sequence[str] = ("tomcat",),
        images_on: Sequence[str] = ("a",),
    ) -> None:
        """Bring at least so many hosts up, load the images, write keys and configuration.

        Does only what is missing: hosts that run keep running, hosts that died are booted.
        """
        machine.need_root()
        machine.need_programs(machine.TO_RUN)
        if not 1 <= hosts <= len(_HOST_NAMES):
            raise Refused(
                "lab.too-many-hosts",
                f"cannot bring {hosts} hosts up",
                hint=f"a lab has 1 to {len(_HOST_NAMES)}",
            )
        with self.cache.locked():
            current = self._base()
            wanted = [images.get_image(self.cache, name) for name in image_names]
            store = self._image_store(current, wanted) if wanted and images_on else None
            with self._locked(create=True):
                known = self._record()
                stay = known.base if known.base and known.base.is_dir() else current
                all_images = tuple(sorted({*known.images, *image_names}))
                self._write_record(_Record(base=stay, images=all_images))
                self._make_folders(hosts)
                holders = [self.host(name) for name in images_on]
                if store:
                    for host in holders:
                        images.copy_store(store, host.storage)
        with self._locked(create=True):
            everyone = self._boot()
            for host in holders:
                for image in wanted:
                    _load(host, image)
            self._write_settings(builder=(holders or everyone)[0].name)

    def down(self) -> None:
        """End everything the lab started and remove all its traces. Absent is fine."""
        machine.need_root()
        if not self.state_dir.is_dir():
            return
        with self._locked(create=True):
            cgroups.end(self.cgroup)
            network.remove(self.netns_path)
            remove_tree(self.state_dir)
        with suppress(OSError):
            state_root().rmdir()

    def hosts(self) -> list[Host]:
        """Return the lab's hosts, running or not."""
        return [self._host(name) for name in self._host_names()]

    def host(self, name: str) -> Host:
        """Return one host; a wrong name is refused with those there are."""
        names = self._host_names()
        if name not in names:
            there = f"it has {', '.join(names)}" if names else "bring it up: poold lab up"
            raise Refused(
                "lab.unknown-host",
                f"cannot find host {name!r} in lab {self.name!r}",
                hint=there,
            )
        return self._host(name)

    def address(self, name: str) -> str:
        """Return a host's address on the lab's bridge."""
        return self.host(name).address

    def status(self) -> list[HostStatus]:
        """Return what each host is doing now."""
        return [
            HostStatus(
                name=host.name,
                address=host.address,
                process=(process := host.process()),
                running=process is not None,
                cut=host.is_cut,
            )
            for host in self.hosts()
        ]

    def exec(self, name: str, *argv: str, timeout_seconds: float = 300) -> str:
        """Run a command on a host and return its output; a failure says what it said."""
        return self.host(name).execute(
            *argv, what=f"run {argv[0]}", timeout_seconds=timeout_seconds
        )

    def exec_argv(self, name: str, argv: Sequence[str]) -> list[str]:
        """Return the machine's command that runs `argv` on a host."""
        machine.need_root()
        return self.host(name).exec_argv(argv)

    def run(self, *argv: str, timeout_seconds: float = 300) -> str:
        """Run one of the machine's commands inside the lab's network and return its output."""
        return run(
            *self.run_argv(argv),
            what=f"run {argv[0]} in lab {self.name!r}",
            timeout_seconds=timeout_seconds,
        )

    def run_argv(self, argv: Sequence[str]) -> list[str]:
        """Return the command that runs `argv` inside the lab's network, ended by `down`."""
        machine.need_root()
        if not network.exists(self.netns_path):
            raise self._not_up()
        members = self.cgroup / "run"
        members.mkdir(parents=True, exist_ok=True)
        return cgroups.join_argv(members, ["nsenter", f"--net={self.netns_path}", "--", *argv])

    def kill(self, name: str) -> None:
        """Let a host die at once with everything on it; its disk stays."""
        machine.need_root()
        with self._locked():
            self.host(name).kill()

    def reboot(self, name: str) -> None:
        """Power-cycle a host, dead or alive, and return when it runs."""
        machine.need_root()
        with self._locked():
            host = self.host(name)
            network.create(self.netns_path)
            host.start()

    def cut(self, name: str) -> None:
        """Pull a host's cable: nothing reaches it, it runs on."""
        self._set_link(name, up=False)

    def mend(self, name: str) -> None:
        """Plug a host's cable in again."""
        self._set_link(name, up=True)

    def _set_link(self, name: str, *, up: bool) -> None:
        machine.need_root()
        with self._locked():
            host = self.host(name)
            if up:
                (host.folder / "cut").unlink(missing_ok=True)
            else:
                (host.folder / "cut").touch()
            if host.process() is not None:
                network.set_link(self.netns_path, name, up=up)

    def _host_names(self) -> list[str]:
        folder = self.state_dir / "hosts"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def _host(self, name: str) -> Host:
        return Host(
            name=name,
            address=network.address_of(_HOST_NAMES.index(name)),
            folder=self.state_dir / "hosts" / name,
            cgroup=self.cgroup / name,
            namespace=self.netns_path,
            base=self._record().base or Path("/nonexistent"),
        )

    def _make_folders(self, hosts: int) -> None:
        for name in _HOST_NAMES[:hosts]:
            (self.state_dir / "hosts" / name).mkdir(parents=True, exist_ok=True)

    def _boot(self) -> list[Host]:
        """Make what hosts need and boot those that do not run; return them all."""
        self._make_client_key()
        network.create(self.netns_path)
        everyone = self.hosts()
        _in_parallel(self._start, everyone)
        return everyone

    def _image_store(self, base_folder: Path, wanted: Sequence[images.Image]) -> Path:
        """Return the storage that holds these images. Needs the cache's lock."""
        key = recipe_key(_STORE_FORMAT, sorted(image.image_id for image in wanted))
        kind = "store-" + "+".join(sorted(image.name for image in wanted))

        def fill(folder: Path) -> None:
            """Let podman load the images, on a host of a lab for this purpose."""
            builder = Lab(_BUILDER, cache=self.cache)
            builder.down()
            try:
                with builder._locked(create=True):
                    builder._write_record(_Record(base=base_folder))
                    builder._make_folders(1)
                    (host,) = builder._boot()
                    for image in wanted:
                        _load(host, image)
                    host.kill()
                    images.take_store(host.storage, folder)
            finally:
                builder.down()

        store = self.cache.entry(kind, key, fill)
        self.cache.remove_superseded(kind, {store})
        return store

    def _start(self, host: Host) -> None:
        if host.process() is not None:
            host.wait_until_started()  # an `up` that was killed may have left it booting
            return
        host.prepare(client_key=self.key_path.with_suffix(".pub").read_text(encoding="utf-8"))
        host.start()

    def _make_client_key(self) -> None:
        if self.key_path.with_suffix(".pub").exists():  # it is written after the private one
            return
        self.key_path.unlink(missing_ok=True)
        comment = f"poold lab {self.name}"
        keygen = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment)
        run(*keygen, "-f", self.key_path, what="make the lab's key")

    def _write_settings(self, *, builder: str) -> None:
        hosts = self.hosts()
        pinned = [f"{host.address} {host.public_key()}\n" for host in hosts]
        self.known_hosts_path.write_text("".join(pinned), encoding="utf-8")
        names = self._record().images
        text = settings.configuration(
            state=self.state_dir,
            hosts=hosts,
            builder=builder,
            images={name: images.reference(name) for name in names},
        )
        self.config_path.write_text(text, encoding="utf-8")

    def _base(self) -> Path:
        """Return the current base system; keep older ones that some lab's hosts stand on."""
        folder = self.cache.entry("base", base.key(), _build_base)
        used = [Lab(name)._record().base for name in Lab.names()]  # noqa: SLF001
        self.cache.remove_superseded("base", {folder, *(path for path in used if path)})
        return folder

    def _record(self) -> _Record:
        file = self.state_dir / "lab.json"
        if not file.exists():
            return _Record()
        fields = json.loads(file.read_text(encoding="utf-8"))
        return _Record(base=Path(fields["base"]), images=tuple(fields["images"]))

    def _write_record(self, record: _Record) -> None:
        fresh = self.state_dir / "lab.json.new"
        fields = {"base": str(record.base), "images": record.images}
        fresh.write_text(json.dumps(fields), encoding="utf-8")
        fresh.rename(self.state_dir / "lab.json")

    @contextmanager
    def _locked(self, *, create: bool = False) -> Iterator[None]:
        """Hold the lab's lock, its folder: one change at a time. Refuse if there is no lab."""
        while True:
            if create:
                self.state_dir.mkdir(parents=True, exist_ok=True)
            try:
                lock = os.open(self.state_dir, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:
                raise self._not_up() from None
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                # `down` removes the folder: whoever waited for it meanwhile holds nothing.
                if os.fstat(lock).st_nlink == 0:
                    continue
                yield
                return
            finally:
                os.close(lock)

    def _not_up(self) -> Refused:
        return Refused(
            "lab.not-up",
            f"cannot do that in lab {self.name!r}: it is not up",
            hint=f"bring it up: poold lab up --name {self.name}",
        )


def _build_base(folder: Path) -> None:
    machine.need_programs(machine.TO_BUILD_BASE)
    base.build(folder)


def _load(host: Host, image: images.Image) -> None:
    name = images.reference(image.name)
    there = host.execute(
        *("podman", "images", "--no-trunc", "--format", "{{.ID}}", name), what="list images"
    )
    if image.image_id in there:
        return
    machine.say(f"loading the image {image.name} on host {host.name}")
    with image.archive.open("rb") as archive:
        # By this name podman opens the file itself, instead of copying standard input first.
        run(
            *host.exec_argv(["podman", "load", "--quiet", "--input", "/proc/self/fd/0"]),
            what=f"load the image {image.name} on host {host.name}",
            stdin=archive,
            environment=host.environment(),
        )


def _in_parallel(call: Callable[[Host], None], hosts: Sequence[Host]) -> None:
    """Run a call for each host at once; the first failure is raised when all have ended."""
    with ThreadPoolExecutor(max_workers=max(1, len(hosts))) as pool:
        for done in [pool.submit(call, host) for host in hosts]:
            done.result()
