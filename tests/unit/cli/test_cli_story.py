"""explain, events and audit, against a served fleet."""

from __future__ import annotations

import json
import signal
import threading

from poold.cli.story import Following, lately
from poold.client import Client, Where
from poold.errors import Temporary
from poold.model.events import Event, Explanation


def test_explain_says_why_in_sentences(poold):
    """Sentence, what is waited for, each part, what happened lately; as JSON the same."""
    poold("scale", "hello", "2", "--wait")
    ran = poold("explain", "hello")
    assert ran.code == 0
    assert ran.out.splitlines()[0] == "hello 2/2"
    assert "replica     hello1 is ready on a" in ran.out
    assert "ago: scale of hello is settled as change 1" in ran.out
    answer = json.loads(poold("explain", "hello", "--json").out)
    assert (answer["pool"], answer["waits_for"]) == ("hello", [])
    assert poold("explain", "other").code == 2


def test_explain_quotes_what_a_failure_left(poold, daemon):
    """The lines of CRIU's log stand below the sentence that they prove."""
    daemon.fleet.misbehaviour = "fail"
    assert poold("scale", "hello", "1", "--wait").code == 1
    ran = poold("explain", "hello")
    said = "change      cannot restore hello1: the checkpoint holds a live connection\n"
    assert f"{said}              | Error (criu/sk-inet.c:1): Connected TCP socket\n" in ran.out


def test_explain_quotes_the_newest_failure_among_the_events():
    """Of a failure that is over, such as a fallback's, the event has the lines."""
    events = tuple(
        Event(n, 90.0, "replica.start-failed", f"failed {n}", data={"problem": {"detail": f"e{n}"}})
        for n in (1, 2)
    )
    found = Explanation("hello", 100.0, "hello 1/1", events=events)
    assert list(lately(found)) == ["10 s ago: failed 1", "10 s ago: failed 2", "  | e2"]


def test_events_are_listed(poold):
    """The newest events, oldest first, of one pool where it is given."""
    assert poold("events").out == "no events\n"
    poold("scale", "hello", "1", "--wait")
    lines = poold("events").out.splitlines()
    assert [line.split()[2] for line in lines] == ["change.accepted", "change.settled"]
    assert len(json.loads(poold("events", "--json", "--limit", "1").out)["events"]) == 1
    assert poold("events", "--pool", "other").out == "no events\n"


def test_events_are_followed_until_interrupted(program, daemon):
    """`events --follow` prints what happens when it happens; interrupting it is no failure."""
    running = program("events", "--follow", "--json")
    box = []
    reading = threading.Thread(target=lambda: box.append(running.stdout.readline()))
    reading.start()
    while reading.is_alive():
        daemon.do(daemon.fleet.events.add, "host.up", "a is up")
        reading.join(0.1)
    assert json.loads(box[0])["text"] == "a is up"
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=10)
    assert (running.returncode, errors.strip()) == (130, "")


def test_audit_shows_who_asked_for_what(poold):
    """Each accepted call is a row with its reason; refused ones are not there."""
    poold("scale", "hello", "1", "--reason", "noon")
    poold("scale", "hello", "99")
    (call,) = json.loads(poold("audit", "--json").out)["calls"]
    assert (call["operation"], call["reason"]) == ("put_scale", "noon")
    assert "noon" in poold("audit", "--pool", "hello").out
    assert poold("audit", "--pool", "other").out == "nothing was asked for yet\n"


def test_a_wish_of_the_client_carries_a_key(poold, daemon):
    """Two equal wishes are two wishes: each has a key of its own."""
    client = Client(Where(socket=str(daemon.socket)))
    first, second = client.scale("hello", delta=1), client.scale("hello", delta=1)
    assert first.id != second.id
    assert len(daemon.fleet.calls._keys) == 2


def test_a_gap_is_shown_and_passed_over(daemon):
    """Who comes back too late is told that something is missing, then gets what is kept."""
    daemon.fleet.events.keep = 2
    for number in range(5):
        daemon.do(daemon.fleet.events.add, "host.up", str(number))
    stream = Client(Where(socket=str(daemon.socket))).follow(after=1)
    found = [next(stream) for _ in range(3)]
    stream.close()
    assert [(event.id, event.kind) for event in found] == [
        (3, "gap"), (4, "host.up"), (5, "host.up"),
    ]  # fmt: skip


class Streams:
    """A client whose streams end, break off and come back."""

    def __init__(self):
        self.asked = []
        self.streams = [[1, 2], Temporary("daemon.unreachable", "cannot reach"), [3], []]

    def follow(self, pool, *, after):
        self.asked.append(after)
        given = self.streams.pop(0)
        if isinstance(given, Temporary):
            raise given
        for number in given:
            yield Event(number, 0.0, "host.up", str(number))


def test_following_goes_on_where_it_was(capsys):
    """A stream that ended or broke off is resumed after the last event seen; said once."""
    streams = Streams()
    following = Following(streams, None, sleep=lambda seconds: None).events(0)
    assert [next(following).id for _ in range(3)] == [1, 2, 3]
    assert streams.asked == [0, 2, 2]
    assert capsys.readouterr().err == "cannot reach; trying again\n"
