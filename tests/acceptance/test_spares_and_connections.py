"""A spare whose application keeps connections open: what a long freeze does to them, and the hook.

The application holds a pool of one connection to a database that closes what is idle, and an alarm.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from poold.lab.network import BRIDGE_ADDRESS

pytestmark = [pytest.mark.lab, pytest.mark.slow]

# Says "port N", then "opened" and "closed" for each connection; closes what is idle for 1.5 s.
_DATABASE = """
import socketserver, sys
class One(socketserver.StreamRequestHandler):
    timeout = 1.5
    def handle(self):
        print("opened", flush=True)
        try:
            while line := self.rfile.readline():
                self.wfile.write(b"row\\n")
        except OSError:
            pass
        print("closed", flush=True)
with socketserver.ThreadingTCPServer((sys.argv[1], 0), One) as server:
    print("port", server.server_address[1], flush=True)
    server.serve_forever()
"""
# GET / asks the database through the pooled connection and tells of the alarm. POST /renew opens it
# anew, POST /open only where there is none, POST /close closes it; the first two set the alarm.
_APPLICATION = r"""
use IO::Socket::INET; $SIG{PIPE} = "IGNORE"; my ($db, $rang) = (undef, 0);
$SIG{ALRM} = sub { $rang++ };
sub opened { $db ||= IO::Socket::INET->new(PeerAddr => "DATABASE") }
sub asked { return "nothing" if !opened(); print $db "ask\n"; return scalar(<$db>) // "closed" }
my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 64, ReuseAddr => 1) or die $!;
for (;;) {
  my $c = $s->accept or next;
  my ($p) = (scalar(<$c>) // "") =~ m{ (\S+) }; my $length = 0;
  while (defined(my $l = <$c>)) {
    $length = $1 if $l =~ /^content-length: (\d+)/i; last if $l !~ /\S/;
  }
  read $c, my $body, $length;
  undef $db if $p eq "/renew" || $p eq "/close";
  if ($p eq "/renew" || $p eq "/open") { opened(); alarm 1 }
  my $b = $p eq "/" ? asked() : "fine"; chomp $b; $b .= " $rang\n";
  print $c "HTTP/1.0 200 OK\r\nContent-Length: " . length($b) . "\r\n\r\n$b"; close $c;
}
"""


class Database:
    """The database in the lab's network, seen by what it says."""

    def __init__(self, lab) -> None:
        argv = lab.run_argv([sys.executable, "-c", _DATABASE, BRIDGE_ADDRESS])
        self.process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        self.address = f"{BRIDGE_ADDRESS}:{self._next().split()[1]}"

    def rests_after(self, connections: int) -> None:
        """Wait until so many connections were opened and every one is closed again."""
        left = {"opened": connections, "closed": connections}
        while any(left.values()):
            left[self._next()] -= 1

    def _next(self) -> str:
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def database(faults_lab) -> Iterator[Database]:
    """Run the database for one test."""
    found = Database(faults_lab)
    yield found
    found.end()


@pytest.mark.parametrize(
    ("hook", "answer"), [("/renew", "row 1"), ("/open", "closed 1")], ids=["renews", "only opens"]
)
def test_what_a_pooled_connection_is_after_a_long_freeze(make, database, hook, answer):
    """What came due rang once; the connection is the one that the hook leaves: renewed, or dead."""
    command = json.dumps(["perl", "-e", _APPLICATION.replace("DATABASE", database.address)])
    table = make.pool("pooled", command=command, engine="oci", spares=1, hosts=["a"])
    for event, path in (("before_checkpoint", "/close"), ("after_restore", hook)):
        table += f'\n[pools.pooled.{event}]\nkind = "http"\npath = "{path}"\n'
    folder = f"/var/lib/poold-pooled-{hook[1:]}"
    tables = [make.host("a", agent_dir=folder), table]
    fleet = make.fleet(f"pooled-{hook[1:]}", tables, hosts=["a"], agent_dir=folder)
    try:
        fleet.scaled("pooled", 1)
        fleet.until("a spare waits", lambda: [s.state for s in fleet.client.spares()] == ["ready"])
        database.rests_after(4)  # of the cold start, the proof, the replica and the spare
        fleet.settled(fleet.client.restore("pooled"))
        (replica,) = (one for one in fleet.ready("pooled", 2) if one.method == "spare")
        asked = ("curl", "-sf", "--max-time", "5", f"http://{replica.address}/")
        assert fleet.lab.run(*asked).strip() == answer
    finally:
        text = fleet.config.read_text().replace("spares = 1", "spares = 0")
        fleet.config.write_text(text)
        fleet.tell(signal.SIGHUP)
        fleet.until("no spares are left", lambda: not fleet.client.spares())
        fleet.scaled("pooled", 0)
