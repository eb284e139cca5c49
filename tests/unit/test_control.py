"""What may be wished, what is refused and why."""

from __future__ import annotations

import pytest

from poold.agent.space import read_reserve
from poold.config import Config
from poold.control import Control
from poold.errors import Refused, Temporary
from poold.model.application import Application
from poold.model.fleet import Host, Pool, Replica
from poold.store import Assignment, Move, Store, Wish


class World:
    """Replicas as a test says they are."""

    def __init__(self):
        self.known = []
        self.foreign = {}

    def replicas(self, pool=None):
        return tuple(self.known)

    def hosts(self):
        return ()

    def foreign_on(self, name):
        return frozenset(self.foreign.get(name, ()))


def pool(name="hello", **fields):
    defaults = {
        "application": Application(image="i", port=1), "hosts": ("a", "b"), "builder": "a",
        "replica_name": "hello{n}", "min": 0, "max": 5,
    }  # fmt: skip
    return Pool(name=name, **{**defaults, **fields})


@pytest.fixture
def parts(tmp_path):
    """Give a store, a world and a control over two hosts of the pool and one that is not."""
    store, world = Store(tmp_path), World()
    config = Config(
        hosts={name: Host(name=name) for name in ("a", "b", "c")}, pools={"hello": pool()}
    )
    yield store, world, Control(store=store, world=world, config=lambda: config)
    store.close()


def names(store):
    return [w.name for w in store.wishes()]


def put_ready(parts, *replicas):
    store, world, _ = parts
    for name in replicas:
        store.put_wish(Wish(name=name, pool="hello"))
        store.put_assignment(Assignment(name=name, pool="hello", host="a", since=1.0))
        world.known.append(Replica(name, "hello", "ready", "a", container_id="c1"))


def test_scaling_adds_the_lowest_free_names(parts):
    """Two more beside hello2 are hello1 and hello3."""
    store, _, control = parts
    store.put_wish(Wish(name="hello2", pool="hello"))
    change = control.scale("hello", replicas=3, actor="me", reason="load")
    assert names(store) == ["hello1", "hello2", "hello3"]
    assert (change.state, change.actor, change.reason) == ("pending", "me", "load")
    assert change.wish["replicas"] == 3


def test_a_name_that_others_have_on_every_host_is_left_out(parts):
    """One that is free on a host is used there; a host that was chosen has to have it free."""
    store, world, control = parts
    world.foreign = {"a": {"hello1"}, "b": {"hello1", "hello2"}}
    control.scale("hello", replicas=1, actor="me")
    assert names(store) == ["hello2"]
    control.restore("hello", host="b", actor="me")
    assert names(store) == ["hello2", "hello3"]
    with pytest.raises(Refused, match="cannot use the name hello1 on b") as refused:
        control.restore("hello", name="hello1", host="b", actor="me")
    assert refused.value.code == "replica.name-taken"
    assert names(store) == ["hello2", "hello3"]


def test_a_disk_down_to_its_reserve_refuses_only_what_adds(parts):
    """What takes replicas away is what one needs just then."""
    store, _, control = parts
    put_ready(parts, "hello1", "hello2", "hello3")
    store.reserve = read_reserve("1000000t")
    for adds in (
        lambda: control.scale("hello", delta=1, actor="me"),
        lambda: control.restore("hello", actor="me"),
        lambda: control.checkpoint("hello", actor="me"),
    ):
        with pytest.raises(Temporary, match="cannot accept a wish"):
            adds()
    control.scale("hello", delta=-1, actor="me")
    control.remove("hello1", actor="me")
    assert names(store) == ["hello2"]


def test_scaling_removes_what_is_not_ready_before_the_highest_numbers(parts):
    """A replica that never came up is given up first."""
    store, world, control = parts
    put_ready(parts, "hello1", "hello2", "hello3", "hello4")
    world.known[0] = Replica("hello1", "hello", "failed")
    control.scale("hello", delta=-2, actor="me")
    assert names(store) == ["hello2", "hello3"]


def test_scaling_to_what_is_there_is_settled_at_once(parts):
    """Nothing to do is said at once."""
    _, _, control = parts
    put_ready(parts, "hello1", "hello2")
    assert control.scale("hello", replicas=2, actor="me").state == "settled"
    assert control.restore("hello", name="hello2", actor="me").state == "settled"


def test_an_explicit_number_takes_the_place_of_the_configured_first_one(parts):
    """Scale 0 of a new pool is not overruled by the file's `replicas`."""
    store, _, control = parts
    control.scale("hello", replicas=0, actor="me")
    assert store.see_pool("hello").first_wish_at is not None


def test_listeners_hear_only_of_accepted_wishes(parts):
    """The loop wakes after the commit; a refusal wakes nobody and writes nothing."""
    store, _, control = parts
    heard = []
    store.listen(lambda name: heard.append((name, len(store.wishes()))))
    control.scale("hello", replicas=2, actor="me")
    with pytest.raises(Refused):
        control.scale("hello", replicas=6, actor="me")
    assert heard == [("hello", 2)]
    assert len(store.changes()) == 1


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda c: c.scale("helo", replicas=1, actor="me"), "pool.unknown"),
        (lambda c: c.scale("hello", replicas=6, actor="me"), "scale.out-of-bounds"),
        (lambda c: c.scale("hello", replicas=-1, actor="me"), "scale.out-of-bounds"),
        (lambda c: c.scale("hello", actor="me"), "scale.ambiguous"),
        (lambda c: c.scale("hello", replicas=1, delta=1, actor="me"), "scale.ambiguous"),
        (lambda c: c.restore("hello", name="world1", actor="me"), "replica.bad-name"),
        (lambda c: c.restore("hello", name="hello01", actor="me"), "replica.bad-name"),
        (lambda c: c.restore("hello", name="hello0", actor="me"), "replica.bad-name"),
        (lambda c: c.restore("hello", host="d", actor="me"), "host.unknown"),
        (lambda c: c.restore("hello", host="c", actor="me"), "host.not-of-pool"),
        (lambda c: c.restore("hello", name="hello1", host="b", actor="me"), "replica.elsewhere"),
        (lambda c: c.remove("hello9", actor="me"), "replica.unknown"),
        (lambda c: c.move("hello9", to="b", actor="me"), "replica.unknown"),
        (lambda c: c.move("hello1", to="a", actor="me"), "move.same-host"),
        (lambda c: c.move("hello1", to="c", actor="me"), "host.not-of-pool"),
        (lambda c: c.move("hello2", to="b", actor="me"), "move.not-ready"),
        (lambda c: c.checkpoint("helo", actor="me"), "pool.unknown"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused_and_leaves_no_trace(parts, call, code):
    """Each refusal has its code, a text that starts with cannot, and writes nothing."""
    store, _, control = parts
    put_ready(parts, "hello1")
    store.put_wish(Wish(name="hello2", pool="hello"))
    before = names(store)
    with pytest.raises(Refused, match=r"^cannot ") as refused:
        call(control)
    assert refused.value.code == code
    assert names(store) == before
    assert store.changes() == ()


def test_removing_below_the_minimum_is_refused(tmp_path):
    """Min holds for rm as well as for scale."""
    store = Store(tmp_path)
    config = Config(hosts={"a": Host(name="a")}, pools={"hello": pool(min=1)})
    control = Control(store=store, world=World(), config=lambda: config)
    control.scale("hello", replicas=1, actor="me")
    with pytest.raises(Refused) as refused:
        control.remove("hello1", actor="me")
    assert refused.value.code == "scale.out-of-bounds"
    store.close()


def test_a_move_is_written_down_with_its_source(parts):
    """The store has the move before anything is asked of a host."""
    store, _, control = parts
    put_ready(parts, "hello1")
    change = control.move("hello1", to="b", actor="me")
    (move,) = store.moves()
    assert (move.change, move.source, move.target, move.step) == (change.id, "a", "b", "image")
    assert move.container_id == "c1"
    for call in (
        lambda: control.remove("hello1", actor="me"),
        lambda: control.move("hello1", to="b", actor="me"),
        lambda: control.scale("hello", replicas=0, actor="me"),
    ):
        with pytest.raises(Refused) as refused:
            call()
        assert refused.value.code == "replica.moving"
    assert isinstance(move, Move)


def test_a_name_of_another_pool_is_refused(tmp_path):
    """Two pools whose patterns meet cannot share a name."""
    store = Store(tmp_path)
    config = Config(
        hosts={"a": Host(name="a")},
        pools={"hello": pool(), "other": pool("other", replica_name="hello{n}")},
    )
    control = Control(store=store, world=World(), config=lambda: config)
    control.restore("hello", name="hello1", actor="me")
    with pytest.raises(Refused) as refused:
        control.restore("other", name="hello1", actor="me")
    assert refused.value.code == "replica.bad-name"
    store.close()


@pytest.mark.parametrize("wished", [True, False], ids=["wished", "reserved"])
def test_a_renamed_pool_is_told_who_has_its_names_and_the_way_out(tmp_path, wished):
    """The old pool's wish, or its replica on a host that is cut off: neither is started twice."""
    store = Store(tmp_path)
    config = Config(hosts={"a": Host(name="a")}, pools={"hallo": pool("hallo")})
    control = Control(store=store, world=World(), config=lambda: config)
    if wished:
        store.put_wish(Wish(name="hello1", pool="hello"))
    else:
        store.put_assignment(Assignment(name="hello1", pool="hello", host="a", since=1.0))
    for wish in (
        lambda: control.scale("hallo", replicas=1, actor="me"),
        lambda: control.restore("hallo", actor="me"),
    ):
        with pytest.raises(Refused, match="the pool hello has it") as refused:
            wish()
        assert refused.value.hint == (
            "put hello back into the configuration, scale it down, then rename it"
        )
    assert store.changes() == ()
    store.close()


def test_a_replica_whose_pool_left_is_refused_with_the_way_out(tmp_path):
    """Removing or moving it needs the pool's configuration."""
    store = Store(tmp_path)
    config = Config(hosts={"a": Host(name="a")}, pools={})
    control = Control(store=store, world=World(), config=lambda: config)
    store.put_wish(Wish(name="hello1", pool="hello"))
    for wish in (
        lambda: control.remove("hello1", actor="me"),
        lambda: control.move("hello1", to="a", actor="me"),
    ):
        with pytest.raises(Refused, match="its pool hello left the configuration") as refused:
            wish()
        assert refused.value.code == "pool.unknown"
        assert refused.value.hint.startswith("put hello back into the configuration")
    store.close()


def test_a_move_to_a_full_host_is_refused(tmp_path):
    """What the host has counts, and what is on its way there, each once."""
    store, world = Store(tmp_path), World()
    hosts = {"a": Host(name="a"), "b": Host(name="b", max_replicas=2)}
    config = Config(hosts=hosts, pools={"hello": pool()})
    control = Control(store=store, world=world, config=lambda: config)
    put_ready((store, world, control), "hello1", "hello2", "hello3")
    store.put_assignment(Assignment(name="other1", pool="other", host="b", since=1.0))
    control.move("hello1", to="b", actor="me")
    with pytest.raises(Refused, match="as many replicas as it may, 2") as refused:
        control.move("hello2", to="b", actor="me")
    assert refused.value.code == "host.full"
    store.drop_assignment("other1", "b")
    control.move("hello2", to="b", actor="me")
    store.close()
