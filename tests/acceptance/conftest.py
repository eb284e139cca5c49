"""Labs of two hosts: one where poold is installed as its README says, one for what goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import neighbours
import pytest
from fault_table import CLOCK
from onlooker import SECRET, Onlooker
from view import HostSeen

from poold.client import Client, Where
from poold.errors import Problem
from poold.lab import Lab
from poold.model.fleet import Change, HostStatus, Replica

_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / ".ci" / "requirements.lock"


@pytest.fixture(scope="module")
def lab(make_lab: Any) -> Iterator[Lab]:
    """Two hosts, Tomcat's image on a."""
    lab = make_lab("systemd", hosts=2, image_names=("tomcat",), images_on=("a",))
    yield lab
    make_lab.release(lab)


@pytest.fixture(scope="module")
def wheels(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Collect poold's wheel and the locked ones it needs with the lab host's Python."""
    folder = tmp_path_factory.mktemp("wheels")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*build, str(_ROOT)], check=True)
    (poold,) = folder.glob("poold-*.whl")
    version = lab.exec(
        "a", "python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"
    ).strip()
    pins = folder / "constraints.txt"
    pins.write_text("\n".join(re.findall(r"^[\w.-]+==[^\s;\\]+", _LOCK.read_text(), re.MULTILINE)))
    fetch = [*pip, "download", "--only-binary=:all:", "--python-version", version]
    subprocess.run(
        [*fetch, "--constraint", str(pins), "--dest", str(folder), str(poold)], check=True
    )
    return folder


@pytest.fixture
def install(lab: Lab, wheels: Path) -> Callable[[str, str], None]:
    """Return a function that installs poold on a host with a configuration, not yet started."""

    def install_on(host: str, configuration: str) -> None:
        on_disk = lab.host(host).folder / "disk" / "tmp"
        shutil.copytree(wheels, on_disk / "wheels", dirs_exist_ok=True)
        for name in ("id_ed25519", "known_hosts"):
            shutil.copy(lab.state_dir / name, on_disk / name)
        (on_disk / "poold.toml").write_text(configuration)

        def run(*argv: str) -> None:
            lab.exec(host, *argv)

        run("python3", "-m", "venv", "/opt/poold")
        run(
            *("/opt/poold/bin/pip", "install", "--quiet", "--no-index"),
            *("--find-links", "/var/tmp/wheels", "poold"),
        )
        run("install", "-d", "-m", "700", "/etc/poold")
        run("install", "-m", "600", "/var/tmp/id_ed25519", "/etc/poold/id_ed25519")
        run("install", "-m", "644", "/var/tmp/known_hosts", "/etc/poold/known_hosts")
        run("install", "-m", "644", "/var/tmp/poold.toml", "/etc/poold/poold.toml")
        unit = "import poold, pathlib; print(pathlib.Path(poold.__file__).parent)"
        package = lab.exec(host, "/opt/poold/bin/python", "-c", unit).strip()
        run("cp", f"{package}/share/systemd/poold.service", "/etc/systemd/system/")
        run("systemctl", "daemon-reload")

    return install_on


# -- when things go wrong -------------------------------------------------------------------------

_FOLDER = Path(__file__).parent
_PERL = r"""
use IO::Socket::INET; $SIG{PIPE} = "IGNORE"; $| = 1; my $n = 0;
open my $r, "<", "/dev/urandom"; read $r, my $ballast, BALLAST << 20; close $r;
PRELUDE
my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
while (my $c = $s->accept) {
  my ($p) = (scalar(<$c>) // "") =~ m{ (\S+) }; while (defined(my $l = <$c>)) { last if $l !~ /\S/ }
  my $ok = $p eq "/ready" ? "READY" : "200 OK"; my $b = $p eq "/ready" ? "" : $n++ . "\n";
  print $c "HTTP/1.0 $ok\r\nContent-Length: " . length($b) . "\r\n\r\n$b"; close $c;
}
"""
_FIND = """
box=/var/lib/containers/poold/containers/ID
if [ -d $box ]; then pid=$(cat $box/pidfile) conmon=$(cat $box/conmon.pid)
else
  pid=$(podman inspect --format {{.State.Pid}} ID)
  conmon=$(podman inspect --format {{.State.ConmonPid}} ID)
fi
"""
# What a fleet whose test failed left: without a name the next agent takes it away.
_ABANDON = """
import json, os, pathlib, signal, sys
for file in pathlib.Path("/var/lib/containers/poold/containers").glob("*/box.json"):
    box = json.loads(file.read_text())
    if box["labels"].get("io.poold.fleet") == sys.argv[1]:
        file.write_text(json.dumps({**box, "name": "", "owner": ""}))
        try:
            os.kill(int((file.parent / "pidfile").read_text()), signal.SIGKILL)
        except (OSError, ValueError):
            pass
"""
_TALK_TO_ITSELF = """
my $own = IO::Socket::INET->new(LocalPort => 9000, Listen => 1) or die $!;
my $out = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => 9000) or die $!;
my $in = $own->accept;
"""
# inotify_init1 and inotify_add_watch of x86-64
_WATCH_A_FILE = """
my $i = syscall(294, 0); my $f = "/opt/watched"; open my $t, ">", $f; close $t;
syscall(254, $i, $f, 2) >= 0 or die $!;
"""


def application(*, prelude: str = "", ready: str = "200 OK", ballast_mib: int = 1) -> str:
    """Return a counting application in Perl, a tenth of Tomcat, as a pool's `command`."""
    program = _PERL.replace("PRELUDE", prelude).replace("READY", ready)
    return json.dumps(["perl", "-e", program.replace("BALLAST", str(ballast_mib))])


def pool_table(name: str, *, command: str, hosts: Sequence[str] = ("a", "b"), **keys: Any) -> str:
    """Return a pool's table; `keys` are added or win."""
    values = {
        "image": "localhost/poold-lab/counter:latest",
        "port": 8080,
        "hosts": list(hosts),
        "stop_timeout_seconds": 1,
        **keys,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return f"""
[pools.{name}]
command = {command}
env = {{ SECRET = "{SECRET}" }}
{lines}

[pools.{name}.readiness]
kind = "http"
path = "/ready"
deadline_seconds = 3

[[pools.{name}.warmup]]
path = "/"
repeat = 2

[pools.{name}.checkpoint]
quiesce_deadline_seconds = 1
"""


def host_table(lab: Lab, name: str, **keys: Any) -> str:
    """Return a host's table; `keys` are added or win."""
    values = {
        "address": lab.address(name) if name in ("a", "b") else "",
        "key_file": str(lab.key_path),
        "known_hosts_file": str(lab.known_hosts_path),
        **keys,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return f"\n[hosts.{name}]\n{lines}\n"


class Fleet:
    """A daemon of its own process in the lab's network, and a look at what it made."""

    deadline_seconds = 90.0

    def __init__(
        self, lab: Lab, name: str, tables: str, *, agent_dir: str, hosts: Sequence[str] = ("a", "b")
    ) -> None:
        self.lab = lab
        self.name = name
        self.hosts = tuple(hosts)
        self.agent_dir = agent_dir
        self.folder = lab.state_dir / name
        self.folder.mkdir(exist_ok=True)
        self.prefix: tuple[str, ...] = ()  # what begins the daemon's command
        # ids of containers that only look like ours
        self.strangers = {one.kept.container_id for one in neighbours.of(lab)}
        self._met_at = 0.0  # when what was waited for last came true
        self.config = self.folder / "poold.toml"
        self.log = self.folder / "poold.log"
        path = self.folder / "poold.sock"
        self.client = Client(Where(socket=str(path)))
        self.onlooker = Onlooker(
            *(lab, name),
            client=self.client,
            folder=self.folder,
            log=self.log,
            agent_dir=agent_dir,
            hosts=hosts,
        )
        head = f'[daemon]\nstate_dir = "{self.folder}/state"\nsocket = "{path}"\n'
        self.config.write_text(f'{head}fleet = "{name}"\nreconcile_seconds = 2\n{tables}')

    # -- the daemon -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon, as nobody's child, and wait for its API."""
        argv = [*self.prefix, sys.executable, "-m", "poold", "serve", "--config", str(self.config)]
        with self.log.open("ab") as log:
            subprocess.run(
                ["setsid", "--fork", *self.lab.run_argv(argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=True,
            )
        self.until("the daemon answers", self._answers)

    def _answers(self) -> bool:
        try:
            self.client.health()
        except Problem:
            return False
        return True

    def ensure(self) -> None:
        """Start the daemon unless it runs."""
        if not self._answers():
            self.start()

    def kill(self) -> None:
        """End the daemon as kill -9 does."""
        self.onlooker.daemon_dies()
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End the daemon in order."""
        self._end(signal.SIGTERM)

    def tell(self, number: signal.Signals) -> int | None:
        """Send a signal to whoever listens on the socket; return its process id."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, number)
        return pid

    def pid(self) -> int | None:
        """Return the process id of whoever listens on the socket."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(self.client.where.socket)
            except OSError:
                return None
            told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        (pid, _, _) = struct.unpack("3i", told)
        return int(pid)

    def _end(self, number: signal.Signals) -> None:
        """Send a signal and wait until the daemon is gone."""
        pid = self.tell(number)
        if pid is not None:
            self.until("the daemon is gone", lambda: _is_gone(pid), why=self.tail)

    def kill_with_agents(self) -> None:
        """End the daemon and the agents on all hosts as kill -9 does; what they started goes on.

        An agent with nothing to do ends by itself as soon as its daemon is gone.
        """
        agents = self._agents()
        assert len(agents) >= len(self.hosts)
        self.kill()
        for pid in agents:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _agents(self) -> list[int]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                cgroup = (process / "cgroup").read_text()
            except OSError:
                continue
            of_lab = f"/poold-lab-{self.lab.name}/" in cgroup
            if of_lab and b"serve" in command and self.agent_dir.encode() in command:
                found.append(int(process.name))
        return found

    # -- wishes -----------------------------------------------------------------------------------

    def ended(self, change: Change) -> Change:
        """Wait until a change is settled or has failed."""
        deadline = time.monotonic() + self.deadline_seconds
        while change.state == "pending":
            assert time.monotonic() < deadline, f"{change}\n{self.tail()}"
            change = self.client.change(change.id, wait_seconds=5, after_seq=change.seq)
        self._met_at = time.monotonic()
        self.keeps_promises(change)
        return change

    def keeps_promises(self, *accepted: Change) -> None:
        """Check every promise in the middle of things; what was accepted is known from now on."""
        self.onlooker.accepted.update({change.id: change for change in accepted})
        if CLOCK.injected_at is not None:  # a look takes its time
            found = self.onlooker.at_step()
            assert found == [], self.tail()

    def settled(self, change: Change) -> Change:
        """Wait until a change is settled."""
        ended = self.ended(change)
        assert ended.state == "settled", ended
        return ended

    def failed(self, change: Change) -> dict[str, Any]:
        """Wait until a change has failed, and return the problem if it is fit for an operator."""
        ended = self.ended(change)
        assert ended.state == "failed", ended
        problem = ended.problem
        assert problem is not None
        assert str(problem["message"]).startswith("cannot "), problem
        assert problem.get("hint"), problem
        return problem

    def during(self, change: Change, words: str) -> Change:
        """Return as soon as a change says that this is going on; news as such come too late."""
        deadline = time.monotonic() + self.deadline_seconds
        said = []
        while words not in change.progress:
            assert change.state == "pending", f"{words!r} was not seen: {said}, {change}"
            assert time.monotonic() < deadline, f"{change}\n{self.tail()}"
            change = self.client.change(change.id)
            if change.progress not in said:
                said.append(change.progress)
        return change

    def scaled(self, pool: str, replicas: int) -> tuple[Replica, ...]:
        """Scale, wait, and return the replicas: all of them ready."""
        self.settled(self.client.scale(pool, replicas=replicas))
        return self.ready(pool, replicas)

    def ready(self, pool: str, replicas: int) -> tuple[Replica, ...]:
        """Wait until so many replicas are ready and none is anything else."""

        def are_ready() -> tuple[Replica, ...] | None:
            found = self.client.replicas(pool)
            fine = len(found) == replicas and all(one.state == "ready" for one in found)
            return found if fine else None

        found = self.until(f"{pool} has {replicas} ready replicas", lambda: (are_ready(),))
        return found[0] if found[0] is not None else ()

    def host(self, name: str, state: str) -> HostStatus:
        """Wait until a host is in a state and return how it is."""

        def is_so() -> HostStatus | None:
            found = next(host for host in self.client.hosts() if host.name == name)
            return found if found.state == state else None

        return self.until(f"host {name} is {state}", is_so)

    # -- hosts ------------------------------------------------------------------------------------

    def on(self, host: str, *argv: str) -> str:
        """Run a command on a host."""
        return self.lab.exec(host, *argv)

    def about(self, replica: Replica, script: str) -> str:
        """Run a shell's line where a replica runs: $pid is its first process, $conmon minds it."""
        find = _FIND.replace("ID", replica.container_id or "")
        return self.lab.exec(replica.host or "", "sh", "-c", f"{find}\n{script}")

    def names(self, host: str) -> set[str]:
        """Return the names of the containers of poold's that run on a host."""
        return {each.name for each in self.look(host).containers if each.running and each.fleet}

    def count(self, replica: Replica) -> int:
        """Ask a replica for its counter, which then goes up by one."""
        return int(self.lab.run("curl", "-sf", "--max-time", "5", f"http://{replica.address}/"))

    def look(self, host: str) -> HostSeen:
        """Return what poold has on a host."""
        return self.onlooker.look_at(host)

    def is_tidy(self) -> None:
        """Wait until every promise is kept and nothing is left over; fail with what is."""
        self.until("nothing is left over", self._rested_at, why=self.leftovers)

    def leftovers(self) -> list[str]:
        """Return what keeps the fleet from rest."""
        return self.onlooker.at_rest()

    def _rested_at(self) -> float | None:
        at = time.monotonic()
        if self.onlooker.is_busy() or self.leftovers():
            self._met_at = 0.0  # whatever came true before, there was more to do
            return None
        return self._met_at if self._met_at > (CLOCK.injected_at or 0.0) else at

    def injected(self) -> None:
        """Say that something goes wrong from now on."""
        CLOCK.injected()

    def tampers(self) -> None:
        """Say that a staged archive is broken now, by the test."""
        self.onlooker.tampered = True
        CLOCK.injected()

    def converged(self) -> None:
        """Wait until the fault is over: all promises kept, nothing left over. It is timed."""
        at = self.until("all promises are kept", self._rested_at, why=self.leftovers)
        CLOCK.converged(at)

    def rest(self) -> None:
        """Have no replicas, and see that nothing of them is left."""
        for pool in self.client.pools():
            if pool.desired:
                self.scaled(pool.name, 0)
        self.is_tidy()

    def until(
        self, what: str, ask: Callable[[], Any], *, why: Callable[[], Any] | None = None
    ) -> Any:
        """Wait until `ask` returns something true, and return that."""
        deadline = time.monotonic() + self.deadline_seconds
        while not (answer := ask()) or answer == (None,):
            if time.monotonic() > deadline:
                pytest.fail(f"never: {what}; {(why or self._how_it_is)()}\n{self.tail()}")
            time.sleep(0.05)
        self._met_at = time.monotonic()
        return answer

    def _how_it_is(self) -> object:
        try:
            return self.client.replicas()
        except Problem as problem:
            return problem

    def tail(self) -> str:
        """Return the end of the daemon's log."""
        return self.log.read_text()[-4000:]


def _is_gone(pid: int) -> bool:
    """Whether a process has ended; whoever adopted it may not have noticed yet."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


class OneEach:
    """Watches conmon, each container's minder, on both hosts: no name may live twice."""

    def __init__(self, fleet: Fleet) -> None:
        self._prefix = f"/poold-lab-{fleet.lab.name}/"
        self._strangers = fleet.strangers
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.twice: list[str] = []
        self.looks = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.looks += 1
            twice = {key for key, hosts in self._alive().items() if len(hosts) > 1}
            if twice:  # seen one after the other: look again whether it was so at one time
                again = self._alive()
                self.twice += [f"{key} on {again[key]}" for key in twice if len(again[key]) > 1]

    def _alive(self) -> dict[str, set[str]]:
        alive: dict[str, set[str]] = defaultdict(set)
        for process in os.listdir("/proc"):  # noqa: PTH208 - fifty times a second: no Paths
            if not process.isdigit() or _read(f"/proc/{process}/comm") != b"conmon\n":
                continue
            cgroup = _read(f"/proc/{process}/cgroup").decode()
            command = _read(f"/proc/{process}/cmdline").decode(errors="replace").split("\0")
            children = _read(f"/proc/{process}/task/{process}/children")
            if self._prefix in cgroup and "-n" in command and children.strip():
                host = cgroup.partition(self._prefix)[2].partition("/")[0]
                name = command[command.index("-n") + 1]
                if not self._strangers.intersection(command):
                    alive[name].add(host)
        return alive


def _read(path: str) -> bytes:
    """Return a file of /proc; nothing when its process has ended."""
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return b""
    try:
        return os.read(file, 1 << 16)
    except OSError:
        return b""
    finally:
        os.close(file)


@pytest.fixture(scope="session")
def faults_lab(make_lab: Callable[..., Lab]) -> Lab:
    """Two hosts on which everything goes wrong: images of ours on a, others' containers on both."""
    lab = make_lab("faults", hosts=2, image_names=("counter", "tomcat"), images_on=("a",))
    neighbours.plant(lab, ("a", "b"))
    return lab


@pytest.fixture(scope="session")
def one_fleet(faults_lab: Lab) -> Iterator[Fleet]:
    """One daemon and its store for many tests, so that a generation is built once."""
    tables = host_table(faults_lab, "a") + host_table(faults_lab, "b")
    tables += pool_table("app", command=application(ballast_mib=24), keep_generations=1)
    tables += pool_table("mute", command=application(ready="503 Not Yet"))
    tables += pool_table("talker", command=application(prelude=_TALK_TO_ITSELF))
    tables += pool_table("watcher", command=application(prelude=_WATCH_A_FILE))
    tables += pool_table("nowhere", command=application(), image="localhost/nowhere:latest")
    fleet = Fleet(faults_lab, "faults", tables, agent_dir="/var/lib/poold-agent")
    fleet.start()
    yield fleet
    fleet.stop()


@contextmanager
def lent(fleet: Fleet) -> Iterator[None]:
    """Lend a fleet at rest; afterwards nothing may be left, and no name lived twice."""
    fleet.ensure()
    for host in fleet.hosts:
        fleet.host(host, "up")
    with OneEach(fleet) as watched:
        yield
        try:
            fleet.is_tidy()
        finally:
            fleet.rest()
    assert watched.looks
    assert not watched.twice
    assert "Traceback" not in fleet.log.read_text(), fleet.tail()


@pytest.fixture
def fleet(one_fleet: Fleet) -> Iterator[Fleet]:
    """Lend the fleet of many tests."""
    with lent(one_fleet):
        yield one_fleet


class FleetMaker:
    """Makes fleets with hosts and pools of a test's own."""

    application = staticmethod(application)
    pool = staticmethod(pool_table)

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.made: list[Fleet] = []

    def host(self, name: str, **keys: Any) -> str:
        """Return a host's table; `keys` are added or win."""
        return host_table(self.lab, name, **keys)

    def fleet(self, name: str, tables: Sequence[str], **keys: Any) -> Fleet:
        """Start a daemon; it ends with the test."""
        keys.setdefault("agent_dir", "/var/lib/poold-agent")
        fleet = Fleet(self.lab, name, "".join(tables), **keys)
        self.made.append(fleet)
        fleet.start()
        return fleet

    def end(self) -> None:
        """Stop the daemons; what a test that failed left must not fail the others."""
        for fleet in self.made:
            fleet.stop()
            for host in fleet.hosts:
                label = f"label=io.poold.fleet={fleet.name}"
                fleet.on(host, "podman", "rm", "--force", "--time", "0", "--filter", label)
                fleet.on(host, "python3", "-c", _ABANDON, fleet.name)
            shutil.rmtree(fleet.folder)


@pytest.fixture
def make(faults_lab: Lab) -> Iterator[FleetMaker]:
    """Lend the maker of fleets that end with the test."""
    maker = FleetMaker(faults_lab)
    yield maker
    maker.end()


@pytest.fixture(scope="module")
def make_for_all(faults_lab: Lab) -> Iterator[FleetMaker]:
    """Lend the maker of fleets that end with the last test of the file."""
    maker = FleetMaker(faults_lab)
    yield maker
    maker.end()


@pytest.fixture
def lend() -> Callable[[Fleet], AbstractContextManager[None]]:
    """Return what lends such a fleet to one test, at rest before and afterwards."""
    return lent


@pytest.fixture(scope="module")
def mortal_fleet(make_lab: Any) -> Iterator[Fleet]:
    """One host, listed once an hour and when something happened; its replicas must answer."""
    lab = make_lab("deaths", hosts=1, image_names=("counter",), images_on=("a",))
    tables = host_table(lab, "a") + pool_table("app", command=application(), hosts=("a",))
    tables += "[pools.app.liveness]\ninterval_seconds = 0.5\ntimeout_seconds = 1\nfailures = 3\n"
    tables += pool_table("podman", command=application(), hosts=("a",), engine="podman")
    fleet = Fleet(lab, "deaths", tables, agent_dir="/var/lib/poold-agent", hosts=("a",))
    text = fleet.config.read_text()
    assert "reconcile_seconds = 2\n" in text
    fleet.config.write_text(text.replace("reconcile_seconds = 2\n", "reconcile_seconds = 3600\n"))
    fleet.start()
    yield fleet
    fleet.stop()
    make_lab.release(lab)
