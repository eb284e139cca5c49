"""Checkpoints that cannot be made, sent or trusted; full disks; names and ports already taken."""

from __future__ import annotations

import pytest
from view import Kept

from poold.errors import Refused

pytestmark = [pytest.mark.lab, pytest.mark.slow]

_GENERATIONS = "/var/lib/poold-agent/generations"


# -- checkpoints that cannot be made --------------------------------------------------------------


@pytest.mark.fault(
    "CRIU cannot freeze an application",
    how="it watches a file of its own (inotify)",
    ends="the checkpoint fails and names the file and the setting; the replica starts cold",
)
def test_criu_refuses_a_watched_file(fleet):
    """The error names the file and the setting; who asked for a replica gets one, started cold."""
    fleet.injected()
    problem = fleet.failed(fleet.client.checkpoint("watcher"))
    assert problem["code"] == "criu.watched-file", problem
    assert "/opt/watched" in problem["message"]
    assert "scan_paths" in problem["hint"]
    assert problem["detail"]
    fleet.is_tidy()
    (replica,) = fleet.scaled("watcher", 1)
    assert replica.method == "cold"
    assert "watches /opt/watched" in replica.reason, replica
    fleet.converged()


@pytest.mark.fault(
    "an application is never quiet",
    how="it keeps a connection to itself",
    ends="the checkpoint fails and names the connection; the replica starts cold",
)
def test_sockets_are_never_quiet(fleet):
    """The error names the connection; a replica comes up cold all the same."""
    fleet.injected()
    problem = fleet.failed(fleet.client.checkpoint("talker"))
    assert problem["code"] == "checkpoint.sockets-not-quiet", problem
    assert "127.0.0.1:9000" in problem["message"]
    fleet.is_tidy()
    (replica,) = fleet.scaled("talker", 1)
    assert replica.method == "cold"
    assert "open connections" in replica.reason, replica
    fleet.converged()


@pytest.mark.fault(
    "a move that cannot freeze its replica",
    how="an open connection; a watched file",
    ends="the move fails with the reason; the replica runs on where it was",
)
def test_a_connection_in_the_way_of_a_move(fleet):
    """A replica that is being talked to stays where it is and runs on; the change says why."""
    (replica,) = fleet.scaled("talker", 1)
    fleet.injected()
    problem = fleet.failed(fleet.client.move(replica.name, to=_other(replica.host)))
    assert problem["code"] == "checkpoint.sockets-not-quiet", problem
    (after,) = fleet.ready("talker", 1)
    fleet.converged()
    assert after.container_id == replica.container_id
    assert fleet.count(after) == 0


@pytest.mark.fault(
    "a move that cannot freeze its replica",
    how="an open connection; a watched file",
    ends="the move fails with the reason; the replica runs on where it was",
)
def test_criu_refuses_in_a_move(fleet):
    """A replica that cannot be frozen stays where it is and runs on; the change says why."""
    (replica,) = fleet.scaled("watcher", 1)
    fleet.injected()
    problem = fleet.failed(fleet.client.move(replica.name, to=_other(replica.host)))
    assert problem["code"] == "criu.watched-file", problem
    (after,) = fleet.ready("watcher", 1)
    fleet.converged()
    assert after.container_id == replica.container_id
    assert fleet.count(after) == 0


@pytest.mark.fault(
    "the image is missing",
    how="the pool names an image that no host has",
    ends="both changes fail and name the image and the way out",
)
def test_the_image_is_missing(fleet):
    """The error names image and way out, on every host; nothing is left."""
    fleet.injected()
    problem = fleet.failed(fleet.client.scale("nowhere", replicas=1))
    assert problem["code"] == "image.missing", problem
    assert "pull or load" in problem["hint"]
    assert fleet.failed(fleet.client.checkpoint("nowhere"))["code"] == "image.missing"
    fleet.settled(fleet.client.scale("nowhere", replicas=0))
    fleet.converged()


@pytest.mark.fault(
    "an application never becomes ready",
    how="its readiness answers 503",
    ends="checkpoint and scaling fail and say what the probe heard",
)
def test_the_probe_never_answers(fleet):
    """The error says what the probe heard, for the checkpoint and for the replica."""
    fleet.injected()
    problem = fleet.failed(fleet.client.checkpoint("mute"))
    assert problem["code"] == "probe.deadline", problem
    assert "503" in problem["message"], problem
    fleet.is_tidy()
    problem = fleet.failed(fleet.client.scale("mute", replicas=1))
    assert problem["code"] == "probe.deadline", problem
    fleet.settled(fleet.client.scale("mute", replicas=0))
    fleet.converged()


# -- archives that cannot be trusted --------------------------------------------------------------


def _other(host):
    return "b" if host == "a" else "a"


def _current(fleet):
    fleet.scaled("app", 0)
    if not fleet.client.generations("app"):
        fleet.settled(fleet.client.checkpoint("app"))
    return fleet.client.generations("app")[0]


def _folder(generation):
    return f"{_GENERATIONS}/{generation.digest.removeprefix('sha256:')}"


def _is_whole(fleet, host, generation):
    """Whether the host has the generation staged, as it was sealed."""
    archive = f"{_folder(generation)}/archive.tar"
    script = f"test -e {_folder(generation)}/staged.json && sha256sum {archive} || true"
    return fleet.on(host, "sh", "-c", script).startswith(generation.manifest.archive_sha256)


def _becomes_whole(fleet, host, generation):
    """Wait until the host has the generation staged again, as it was sealed."""
    fleet.until(f"the generation is whole on {host}", lambda: _is_whole(fleet, host, generation))


_BREAK = {
    "damaged": "printf x | dd of={folder}/archive.tar bs=1 seek=5000000 conv=notrunc status=none",
    "truncated": "truncate --size=-1000000 {folder}/archive.tar",
    "swapped": "cp {other} {folder}/archive.tar",
    "gone": "rm {folder}/archive.tar",
}


@pytest.mark.fault(
    "a staged archive is broken",
    how="bytes flipped, cut short, swapped or removed between two restores",
    ends="never restored from: another source, or a cold start with the reason; replaced meanwhile",
)
@pytest.mark.parametrize(
    ("host", "how"),
    [("a", "damaged"), ("b", "damaged"), ("a", "truncated"), ("b", "swapped"), ("b", "gone")],
)
def test_a_staged_archive_is(fleet, host, how):
    """It is never restored from; it is replaced, by the packed one or another host's."""
    generation = _current(fleet)
    other = "/var/tmp/other.tar"
    fleet.on(host, "sh", "-c", f"head -c 9000000 /dev/urandom > {other}")
    fleet.tampers()
    fleet.on(host, "sh", "-c", _BREAK[how].format(folder=_folder(generation), other=other))
    fleet.settled(fleet.client.restore("app", host=host))
    (replica,) = fleet.ready("app", 1)
    assert replica.host == host
    if replica.method == "restore":
        assert _is_whole(fleet, host, generation), "it was restored from what is broken"
        assert fleet.count(replica) == 2
    else:
        assert replica.method == "cold"
        assert "archive.tar" in replica.reason, replica
        assert fleet.count(replica) == 0
    _becomes_whole(fleet, host, generation)
    fleet.converged()
    fleet.settled(fleet.client.restore("app", host=host))
    assert fleet.ready("app", 2)[1].method == "restore"


@pytest.mark.fault(
    "a received archive is broken",
    how="bytes flipped, cut short or swapped before it was unpacked",
    ends="thrown away and sent again; restored from the new one",
)
@pytest.mark.parametrize("how", ["damaged", "truncated", "swapped"])
def test_a_received_archive_is(fleet, how):
    """Broken before it was staged, it is thrown away and sent again."""
    generation = _current(fleet)
    packed = f"{_folder(generation)}/archive.tar.zst"
    fleet.stop()
    broken = {
        "damaged": f"printf x | dd of={packed} bs=1 seek=5000000 conv=notrunc status=none",
        "truncated": f"truncate --size=-1000000 {packed}",
        "swapped": f"head -c $(stat -c %s {packed}) /dev/urandom > {packed}.new;"
        f" mv {packed}.new {packed}",
    }
    folder = _folder(generation)
    fleet.on("b", "sh", "-c", f"rm {folder}/archive.tar {folder}/staged.json; {broken[how]}")
    fleet.injected()
    fleet.start()
    _becomes_whole(fleet, "b", generation)
    fleet.settled(fleet.client.restore("app", host="b"))
    (replica,) = fleet.ready("app", 1)
    fleet.converged()
    assert replica.method == "restore", replica


@pytest.mark.fault(
    "the only archive of a generation is broken",
    how="cut short at its source, absent elsewhere",
    ends="not spread: the replica starts cold and says why; a new checkpoint heals it",
)
def test_the_only_packed_archive_is_damaged(fleet):
    """It is not spread: the replica starts cold, says why, and a new checkpoint heals it."""
    generation = _current(fleet)
    folder = _folder(generation)
    fleet.stop()
    fleet.on("b", "rm", "-r", folder)
    fleet.on("a", "truncate", "--size=-1000000", f"{folder}/archive.tar.zst")
    fleet.injected()
    fleet.start()
    fleet.settled(fleet.client.restore("app", host="b"))
    (replica,) = fleet.ready("app", 1)
    assert replica.method == "cold" or replica.generation != generation.number, replica
    assert "could not be sent" in replica.reason or replica.method == "restore", replica
    fleet.settled(fleet.client.checkpoint("app"))
    fleet.settled(fleet.client.restore("app", name="app2", host="b"))
    (again,) = (one for one in fleet.ready("app", 2) if one.name == "app2")
    assert again.method == "restore"
    fleet.converged()


# -- full disks -----------------------------------------------------------------------------------


@pytest.fixture
def small(faults_lab, make):
    """Lend a fleet whose agents keep their files on small file systems, and can be resized."""
    folder = "/var/lib/poold-small"
    for host in ("a", "b"):
        faults_lab.exec(host, "mkdir", "-p", folder)
        options = "size=1g,mode=0700"
        faults_lab.exec(host, "mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
    write = 'open my $w, ">", "/opt/much"; print $w $ballast for 1..8; close $w;'
    tables = [
        *(make.host(host, agent_dir=folder) for host in ("a", "b")),
        make.pool("small", command=make.application(ballast_mib=24), keep_generations=1),
        make.pool("files", command=make.application(ballast_mib=24, prelude=write)),
    ]
    fleet = make.fleet("small", tables, agent_dir=folder)
    fleet.resize = lambda host, size: fleet.on(host, "mount", "-o", f"remount,size={size}", folder)
    try:
        yield fleet
        fleet.rest()
    finally:
        fleet.stop()
        for host in ("a", "b"):
            faults_lab.exec(host, "umount", "--lazy", folder)


@pytest.mark.fault(
    "a host's disk runs full",
    how="small file systems under the agents, resized under way",
    ends="the checkpoint fails and says how much is missing; done once there is room",
)
def test_disks_run_full(small):
    """Freezing, exporting, receiving: the fault is said, and all is done once there is room."""
    small.resize("a", "16m")
    small.injected()
    problem = small.failed(small.client.checkpoint("small"))
    assert problem["code"] == "host.disk-full"
    assert "MiB are needed" in problem["message"]
    small.is_tidy()
    small.resize("a", "180m")  # enough for the memory, not for the files that were written as well
    problem = small.failed(small.client.checkpoint("files"))
    assert problem["code"] == "host.disk-full", problem
    assert "the disk is full" in problem["message"]
    small.converged()
    small.resize("a", "1g")
    small.resize("b", "16m")
    small.injected()
    problem = small.failed(small.client.checkpoint("small"))
    assert problem["code"] == "host.disk-full"
    assert "receive" in problem["message"], problem
    small.resize("b", "1g")
    small.settled(small.client.checkpoint("small"))
    assert {one.method for one in small.scaled("small", 2)} == {"restore"}
    small.converged()


# -- names and ports of others --------------------------------------------------------------------


@pytest.fixture
def stranger(faults_lab, one_fleet):
    """Return a function that runs somebody else's container; all are removed afterwards."""
    made = []

    def run(host, name):
        create = ("podman", "create", "--name", name, "localhost/poold-lab/counter:latest")
        container = faults_lab.exec(host, *create, "sleep", "600").strip()
        one_fleet.strangers.add(container)
        one_fleet.onlooker.foreign.append(Kept(name=name, host=host, container_id=container))
        made.append((host, container))
        faults_lab.exec(host, "podman", "start", container)
        return container

    yield run
    one_fleet.onlooker.foreign.clear()
    for host, container in made:
        faults_lab.exec(host, "podman", "rm", "--force", "--time", "0", container)


def _runs(fleet, host, container):
    shown = fleet.on(host, "podman", "inspect", "--format", "{{.State.Status}}", container)
    return shown.strip() == "running"


@pytest.mark.fault(
    "a foreign container has the name, on one host",
    how="podman run by somebody else",
    ends="the replica comes up on the other host; the stranger is left alone",
)
def test_a_name_is_taken_on_one_host(fleet, stranger):
    """The replica comes up on the other host; the stranger is left alone."""
    container = stranger("a", "app1")
    fleet.injected()
    (replica,) = fleet.scaled("app", 1)
    fleet.converged()
    assert (replica.name, replica.host) == ("app1", "b")
    assert _runs(fleet, "a", container)
    problem = fleet.failed(fleet.client.move("app1", to="a"))
    assert problem["code"] == "replica.foreign-name", problem
    (after,) = fleet.ready("app", 1)
    assert after.host == "b"
    assert _runs(fleet, "a", container)


@pytest.mark.fault(
    "a foreign container has the name, on every host",
    how="podman run by somebody else",
    ends="the next name is used; who asks for that one is refused and told the way out",
)
def test_a_name_is_taken_everywhere(fleet, stranger):
    """Another name is as good; the one that is taken is refused while anybody has it."""
    containers = {host: stranger(host, "app1") for host in ("a", "b")}
    fleet.injected()
    refused = []

    def is_refused():
        try:
            fleet.client.restore("app", name="app1")
        except Refused as problem:
            refused.append(problem.code)
        else:
            fleet.client.remove("app1")  # the strangers are not listed yet
        return bool(refused)

    fleet.until("the name is known to be taken", is_refused)
    assert refused == ["replica.name-taken"]
    (replica,) = fleet.scaled("app", 1)
    fleet.converged()
    assert replica.name == "app2"
    assert all(_runs(fleet, host, each) for host, each in containers.items())


@pytest.mark.fault(
    "a port is taken",
    how="a stranger listens on the first of the range",
    ends="the next port is used; the stranger keeps his",
)
def test_a_port_is_taken(fleet):
    """A stranger's port is passed over, and is the stranger's afterwards."""
    listen = "import socket,time; s=socket.create_server(('', 20000)); time.sleep(600)"
    fleet.on("a", "systemd-run", "--unit", "taken-port", "python3", "-c", listen)
    try:
        fleet.until(
            "the port is taken",
            lambda: ":20000" in fleet.on("a", "ss", "-Hltn", "sport = :20000"),
        )
        fleet.injected()
        fleet.settled(fleet.client.restore("app", host="a"))
        (replica,) = fleet.ready("app", 1)
        assert replica.address.endswith(":20001")
    finally:
        fleet.on("a", "systemctl", "stop", "taken-port")
    fleet.converged()
