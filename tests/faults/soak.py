"""The kill loop: everything dies again and again under constant wishes, and all must come back.

    python tests/faults/soak.py --kills 200 --output build/soak.json

One lab of two hosts, one daemon. Each round wishes something, lets something die at a random moment
(daemon, agents, a host) or happen otherwise (a link cut, a replica's death, a cordon, a reload),
mends it, waits until the fleet is at rest, and checks every promise. Only the former are counted as
kills. The seed is printed: the same one gives the same wishes and deaths again, not the same
moments inside the programs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from promises import broken
from soak_result import Result, Sample
from view import HostSeen, Kept, View, database_bytes, kept_since, read_books

from poold.client import Client, Where
from poold.errors import Problem, Refused
from poold.lab import Lab, images
from poold.model.fleet import Change, Replica

LOOK = Path(__file__).with_name("look.py")
AGENT_DIR, RUN_DIR = "/var/lib/poold-agent", "/run/poold-agent"
PERIOD_SECONDS = 2.0
CONVERGE_SECONDS = 120.0
MOST_REPLICAS = 6
FOREIGN = "app4"  # a name that poold may want, on host b
SECRET = "hush-7f3a9e"

# what happens, and how often it is chosen; only the kills are counted
KILLS = {
    "daemon": 50,
    "daemon and agents": 15,
    "agents": 10,
    "host": 10,
    "reboot": 5,
    "fence": 3,  # of a host that was killed
}
OTHERS = {"link": 10, "replica": 6, "cordon": 4, "reload": 4}
HAPPENINGS = {**KILLS, **OTHERS}
_AT_A_HOST = {"host", "reboot", "fence", "link", "cordon"}
_BOXES = "/var/lib/containers/poold/containers /var/lib/containers/storage/poold/containers"
_END_FIRST_PROCESS = f"""
pid=$(podman inspect --format {{{{.State.Pid}}}} NAME 2>/dev/null)
boxes=$(find {_BOXES} -name box.json 2>/dev/null)
for box in $(grep --files-with-matches '"NAME"' $boxes /dev/null)
do pid=$(cat $(dirname $box)/pidfile); done
test "$pid" -gt 1 && kill -9 $pid && echo killed || true
"""


class Watch:
    """Looks at every process of a lab, again and again: no name twice, no secret in any argv."""

    def __init__(self, lab: Lab, secret: str) -> None:
        self._prefix = f"/poold-lab-{lab.name}/"
        self._secret = secret
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch")
        self.seen: list[str] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            twice = {name for name, hosts in self._alive().items() if len(hosts) > 1}
            if twice:  # seen one after the other: look again whether it was so at one time
                again = self._alive()
                self.seen += [
                    f"promise_1_at_most_one: {name} was alive on {sorted(again[name])}"
                    for name in twice
                    if len(again[name]) > 1
                ]

    def _alive(self) -> dict[str, set[str]]:
        """Return the hosts by the names whose conmon has a child: a live container."""
        alive: dict[str, set[str]] = defaultdict(set)
        for process in Path("/proc").glob("[0-9]*"):
            try:
                cgroup = (process / "cgroup").read_text()
                if self._prefix not in cgroup:
                    continue
                command = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(self._secret in word for word in command):
                    self.seen.append(f"promise_9_no_secrets: a secret is in {command[:4]}")
                if (process / "comm").read_text() != "conmon\n":
                    continue
                children = (process / "task" / process.name / "children").read_text()
            except OSError:
                continue
            host = cgroup.partition(self._prefix)[2].partition("/")[0]
            if "-n" in command and children.strip() and host != "run":
                name = command[command.index("-n") + 1]
                if name != FOREIGN or host != "b":
                    alive[name].add(host)
        return alive


class Soak:
    """One fleet on a lab that is up; `say` gets one line a round."""

    def __init__(
        self,
        lab: Lab,
        *,
        seed: int,
        application: str = "tomcat",
        engine: str = "podman",
        say: Callable[[str], None] = print,
    ) -> None:
        self.lab = lab
        self.random = random.Random(seed)
        self.result = Result(seed=seed)
        self.say = say
        self.hosts = ("a", "b")
        self.application = application
        self.folder = lab.state_dir / "soak"
        self.folder.mkdir(exist_ok=True)
        self.config = self.folder / "poold.toml"
        self.log = self.folder / "poold.log"
        self.log.write_bytes(b"")
        socket = self.folder / "poold.sock"
        self.config.write_text(_config(lab, self.folder, socket, application, engine))
        self.client = Client(Where(socket=str(socket)))
        self._daemon: subprocess.Popen[bytes] | None = None
        self._accepted: list[Change] = []
        self._wished: set[str] = set()
        self._foreign: Kept | None = None

    # -- the daemon -------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the daemon and wait for its API."""
        argv = [sys.executable, "-m", "poold", "serve", "--config", str(self.config)]
        with self.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                self.lab.run_argv(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        deadline = time.monotonic() + CONVERGE_SECONDS
        while not self._answers():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the daemon does not answer\n{self.tail()}")
            time.sleep(0.02)

    def _answers(self) -> bool:
        try:
            self.client.health()
        except Problem:
            return False
        return True

    def stop(self) -> None:
        """End the daemon in order."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.terminate()
            self._daemon.wait(30)

    def kill(self) -> None:
        """End the daemon as kill -9 does."""
        assert self._daemon is not None
        self._daemon.kill()
        self._daemon.wait()

    def kill_agents(self) -> None:
        """End the agents on all hosts as kill -9 does; what they started goes on."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                command = (process / "cmdline").read_bytes().split(b"\0")
                ours = f"/poold-lab-{self.lab.name}/" in (process / "cgroup").read_text()
            except OSError:
                continue
            if ours and b"serve" in command and AGENT_DIR.encode() in command:
                os.kill(int(process.name), signal.SIGKILL)

    def tail(self) -> str:
        """Return the end of the daemon's log."""
        return self.log.read_text()[-4000:]

    # -- one round --------------------------------------------------------------------------------

    def run(self, kills: int, *, until: float | None = None) -> Result:
        """Do so many rounds, or fewer when the monotonic time `until` is over."""
        self.start()
        try:
            self._plant_foreign()
            self._wish("scale", replicas=3)
            self._converge("the first start")
            self.result.convergences.clear()  # that was the first build
            self.result.samples.clear()
            with Watch(self.lab, SECRET) as watch:
                number = 0
                while self.result.kills < kills:
                    number += 1
                    if until is not None and time.monotonic() > until:
                        break
                    try:
                        self._round(number, kills)
                    except (Problem, OSError, RuntimeError, subprocess.SubprocessError) as error:
                        self._failed(number, error)
                    self.result.violations += [f"round {number}: {what}" for what in watch.seen]
                    watch.seen.clear()
        finally:
            self.stop()
        return self.result

    def _failed(self, number: int, error: Exception) -> None:
        """Count a round that could not be done; the next one begins with a daemon that runs."""
        self.result.violations.append(f"round {number}: {type(error).__name__}: {error}")
        self.say(f"{self.result.violations[-1]}\n{self.tail()}")
        if self._daemon is not None and self._daemon.poll() is not None:
            self.start()

    def _round(self, number: int, kills: int) -> None:
        wishes = [self._random_wish() for _ in range(self.random.randint(1, 2))]
        death = self.random.choices(list(HAPPENINGS), weights=list(HAPPENINGS.values()))[0]
        host = self.random.choice(self.hosts)
        time.sleep(self.random.random() ** 2 * 2.5)
        before = self._view(quiet=False, look=False)
        begun = time.monotonic()
        died = self._die(death, host)
        if death in KILLS:
            self.result.kills += 1
        else:
            self.result.others += 1
        mended = time.monotonic()
        if self.random.random() < 0.3:
            wishes.append(self._random_wish())
        gone = {host} if death in ("host", "reboot", "fence") else set()
        before = replace(before, replicas=tuple(r for r in before.replicas if r.name != died))
        seconds = self._converge(f"round {number}", before=before, gone=gone, begun=mended)
        what = f"{death} {host}" if death in _AT_A_HOST else f"{death} {died}".strip()
        self.say(
            f"{self.result.kills}/{kills} {what}; {', '.join(filter(None, wishes)) or 'no wish'};"
            f" dead {mended - begun:.1f} s, at rest after {seconds:.1f} s"
        )

    def _die(self, death: str, host: str) -> str:
        """Let something happen and mend it; returns the name of a replica that was killed."""
        if death == "daemon":
            self.kill()
            self.start()
        elif death == "daemon and agents":
            self.kill()
            self.kill_agents()
            self.start()
        elif death == "agents":
            self.kill_agents()
        elif death == "reboot":
            self._reboot(host)
        elif death == "host":
            self.lab.kill(host)
            time.sleep(self.random.random() * 3)
            self._reboot(host)
        elif death == "fence":
            self._fence(host)
        elif death == "cordon":
            self._accept(self.client.cordon(host))
            time.sleep(self.random.random() * 2)
            self._accept(self.client.uncordon(host))
        elif death == "replica":
            return self._end_replica()
        elif death == "reload":
            self._reload()
        else:
            self.lab.cut(host)
            time.sleep(1 + self.random.random() * 8)
            self.lab.mend(host)
        return ""

    def _fence(self, host: str) -> None:
        """Kill a host, have it taken for dead, and let it come back later."""
        self.lab.kill(host)
        self._until(lambda: self._state(host) == "unknown")
        self._until(lambda: self._said(lambda: self.client.fence(host, confirmed=True)))
        time.sleep(self.random.random() * 3)
        self._reboot(host)
        self._until(lambda: self._said(lambda: self.client.uncordon(host)))

    def _said(self, wish: Callable[[], Change]) -> bool:
        """Say something of a host; False where the daemon has to look at it first."""
        try:
            self._accept(wish())
        except Refused as problem:
            if problem.code != "host.not-ready":
                raise
            return False
        return True

    def _state(self, host: str) -> str:
        return next(each.state for each in self.client.hosts() if each.name == host)

    def _end_replica(self) -> str:
        """Kill the first process of a replica, whatever is being done with it."""
        replicas = [one for one in self.client.replicas("app") if one.state == "ready"]
        if not replicas:
            return ""
        one = self.random.choice(replicas)
        script = _END_FIRST_PROCESS.replace("NAME", one.name)
        return one.name if self.lab.exec(str(one.host), "sh", "-c", script).strip() else ""

    def _reload(self) -> None:
        """Have the daemon read another configuration."""
        assert self._daemon is not None
        text = self.config.read_text()
        two, three = "keep_generations = 2", "keep_generations = 3"
        another = text.replace(two, three) if two in text else text.replace(three, two)
        self.config.write_text(another)
        before = {change.id for change in self.client.changes()}
        self._daemon.send_signal(signal.SIGHUP)
        self._until(
            lambda: any(c.kind == "reload" and c.id not in before for c in self.client.changes())
        )

    def _until(self, ask: Callable[[], bool]) -> None:
        deadline = time.monotonic() + CONVERGE_SECONDS
        while not ask():
            if time.monotonic() > deadline:
                raise RuntimeError("what was waited for never came")
            time.sleep(0.1)

    def _accept(self, change: Change) -> None:
        self._accepted.append(change)

    def _reboot(self, host: str) -> None:
        self.lab.reboot(host)
        if host == "b":  # whose container it is starts it again
            self.lab.exec("b", "podman", "start", FOREIGN)

    def _plant_foreign(self) -> None:
        argv = ["podman", "run", "--detach", "--name", FOREIGN, "--entrypoint", "sleep"]
        image = images.reference(self.application)
        archive = "/var/tmp/foreign.tar"
        self.lab.exec("a", "podman", "save", "--quiet", "--output", archive, image)
        disks = [self.lab.host(name).folder / "disk" / "tmp" / "foreign.tar" for name in self.hosts]
        disks[1].write_bytes(disks[0].read_bytes())
        self.lab.exec("b", "podman", "load", "--quiet", "--input", archive)
        for disk in disks:
            disk.unlink()
        found = self.lab.exec("b", *argv, image, "infinity").strip()
        self._foreign = Kept(name=FOREIGN, host="b", container_id=found)

    # -- wishes -----------------------------------------------------------------------------------

    def _random_wish(self) -> str:
        kind = self.random.choices(
            ["scale", "move", "checkpoint", "restore", "remove", "roll", "rollback"],
            weights=[42, 16, 9, 7, 7, 11, 8],
        )[0]
        number, host = self.random.randint(0, MOST_REPLICAS), self.random.choice(self.hosts)
        chosen = self.random.random()
        if kind == "scale":
            return self._wish("scale", replicas=number)
        if kind in ("checkpoint", "roll", "rollback"):
            return self._wish(kind)
        if kind == "restore":
            return self._wish("restore", host=host)
        names = sorted(self._wished)
        if not names:
            return self._wish("scale", replicas=2)
        name = names[int(chosen * len(names))]
        if kind == "remove":
            return self._wish("remove", name=name)
        there = {one.name: one.host for one in self.client.replicas("app")}
        return self._wish("move", name=name, to="b" if there.get(name, host) == "a" else "a")

    def _wish(self, kind: str, **wish: Any) -> str:
        said = " ".join([kind, *map(str, wish.values())])
        try:
            if kind == "scale":
                change = self.client.scale("app", replicas=wish["replicas"])
            elif kind == "checkpoint":
                change = self.client.checkpoint("app")
            elif kind == "roll":
                change = self.client.roll("app")
            elif kind == "rollback":
                change = self.client.rollback("app")
            elif kind == "restore":
                change = self.client.restore("app", host=wish["host"])
            elif kind == "remove":
                change = self.client.remove(wish["name"])
            else:
                change = self.client.move(wish["name"], to=wish["to"])
        except Refused as problem:
            return f"{said} ({problem.code})"
        self._accepted.append(change)
        names = {str(name) for name in change.wish.get("names", ())}  # type: ignore[attr-defined]
        if kind == "scale":
            self._wished = names
        elif kind == "restore":
            self._wished |= names
        elif kind == "remove":
            self._wished.discard(wish["name"])
        return said

    # -- looking ----------------------------------------------------------------------------------

    def _converge(
        self,
        where: str,
        *,
        before: View | None = None,
        gone: frozenset[str] | set[str] = frozenset(),
        begun: float | None = None,
    ) -> float:
        """Wait for rest, check the promises, note the figures; returns the seconds it took."""
        begun = time.monotonic() if begun is None else begun
        deadline = time.monotonic() + CONVERGE_SECONDS
        found: list[str] = []
        while True:
            self._wait_for_settled(deadline)
            seconds = time.monotonic() - begun
            view = self._view(quiet=True, look=True)
            view = replace(view, before=before, kept=kept_since(before, view, gone))
            found = broken(view)
            if not found or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        self.result.convergences.append(seconds)
        self.result.violations += [f"{where}: {what}" for what in found]
        for what in found:
            self.say(f"{where}: VIOLATION {what}")
        leftovers = sum(what.startswith("promise_2") for what in found)
        self.result.samples.append(self._sample(leftovers))
        return seconds

    def _wait_for_settled(self, deadline: float) -> None:
        while time.monotonic() < deadline:
            replicas = self.client.replicas("app")
            up = all(host.state == "up" for host in self.client.hosts())
            fine = {one.name for one in replicas if one.state == "ready"} == self._wished
            if up and fine and len(replicas) == len(self._wished):
                books = read_books(self.folder / "state")
                if not (books.pending or books.intents or books.moves or books.garbage):
                    return
            time.sleep(0.1)

    def _view(self, *, quiet: bool, look: bool) -> View:
        replicas: tuple[Replica, ...] = self.client.replicas("app")
        hosts = tuple(self._look(name) for name in self.hosts) if look else ()
        return View(
            fleet="soak",
            now=time.time(),
            quiet=quiet,
            hosts=hosts,
            replicas=replicas,
            spares=self.client.spares("app"),
            generations=self.client.generations("app"),
            books=read_books(self.folder / "state"),
            accepted=tuple(self._accepted),
            wished=frozenset(self._wished),
            foreign=(self._foreign,) if self._foreign else (),
            secrets=(SECRET, "PRIVATE KEY"),
            told=(self.log.read_text(errors="replace"), self._metrics()),
            deadline_seconds=CONVERGE_SECONDS,
        )

    def _look(self, host: str) -> HostSeen:
        argv = ("python3", "-c", LOOK.read_text(), AGENT_DIR, RUN_DIR)
        seen = HostSeen.of_json(host, json.loads(self.lab.exec(host, *argv)))
        own = tuple(line for line in seen.argv if "hashlib" not in line)  # this very look
        return replace(seen, argv=own)

    def _metrics(self) -> str:
        socket = str(self.folder / "poold.sock")
        argv = ["curl", "-sf", "--unix-socket", socket, "http://poold/metrics"]
        return subprocess.run(argv, check=True, capture_output=True, text=True).stdout

    def _sample(self, leftovers: int) -> Sample:
        values = {
            line.split()[0]: float(line.split()[1])
            for line in self._metrics().splitlines()
            if line.startswith(("process_resident", "process_open_fds", "poold_tasks"))
        }
        return Sample(
            rss_bytes=int(values["process_resident_memory_bytes"]),
            fds=int(values["process_open_fds"]),
            tasks=int(values["poold_tasks"]),
            database_bytes=database_bytes(self.folder / "state"),
            leftovers=leftovers,
        )


def _config(lab: Lab, folder: Path, socket: Path, application: str, engine: str) -> str:
    hosts = "".join(
        f"""
[hosts.{name}]
address = "{lab.address(name)}"
key_file = "{lab.key_path}"
known_hosts_file = "{lab.known_hosts_path}"
"""
        for name in ("a", "b")
    )
    return f"""
[daemon]
fleet = "soak"
state_dir = "{folder}/state"
socket = "{socket}"
reconcile_seconds = {PERIOD_SECONDS}
{hosts}
[pools.app]
image = "{images.reference(application)}"
env = {{ SOAK_SECRET = "{SECRET}" }}
port = 8080
engine = "{engine}"
max = {MOST_REPLICAS + 2}
keep_generations = 2
stop_timeout_seconds = 1
hosts = ["a", "b"]

[pools.app.readiness]
kind = "http"
path = "/hello/ready"
deadline_seconds = 20

[[pools.app.warmup]]
path = "/hello/"
repeat = 2

[pools.app.checkpoint]
quiesce_deadline_seconds = 5
"""


@contextmanager
def lab_of_its_own(name: str, *, application: str, keep: bool) -> Iterator[Lab]:
    """Bring a lab up for one soak."""
    lab = Lab(name)
    lab.down()
    lab.up(hosts=2, image_names=(application,), images_on=("a",))
    try:
        yield lab
    finally:
        if not keep:
            lab.down()


def main() -> int:
    """Run the long form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="default: a new one, printed")
    parser.add_argument("--minutes", type=float, default=None, help="stop earlier after so long")
    parser.add_argument("--application", choices=("tomcat", "counter"), default="tomcat")
    parser.add_argument("--engine", choices=("auto", "oci", "podman"), default="podman")
    parser.add_argument("--lab", default="soak")
    parser.add_argument("--keep", action="store_true", help="leave the lab up, for a look at it")
    parser.add_argument("--output", type=Path, default=Path("build/soak.json"))
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}", flush=True)

    def say(line: str) -> None:
        print(line, flush=True)

    until = time.monotonic() + 60 * options.minutes if options.minutes else None
    with lab_of_its_own(options.lab, application=options.application, keep=options.keep) as lab:
        soak = Soak(lab, seed=seed, application=options.application, engine=options.engine, say=say)
        result = soak.run(options.kills, until=until)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(result.report(), indent=2) + "\n")
    print(json.dumps(result.report(), indent=2))
    print(f"besides {result.others} rounds of {', '.join(OTHERS)}")
    for excess in (excesses := result.excesses()):
        print(f"TOO MUCH: {excess}")
    return 1 if result.violations or excesses or result.kills < options.kills else 0


if __name__ == "__main__":
    sys.exit(main())
